"""python bench/wheels.py cut|join: carry large wheels to a machine without a network, in pieces.

    python bench/wheels.py cut wheels/ pieces/            # here: pieces of at most 50 MiB
    python bench/wheels.py join pieces/ wheels/           # there: whole again, checked by SHA-256

Nothing but the standard library: it runs before anything is installed.
"""

import argparse
import hashlib
import sys
from pathlib import Path

PIECE_MIB = 50
HASHES = "SHA256SUMS"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cut(wheels: Path, pieces: Path, piece_bytes: int = PIECE_MIB << 20) -> list[Path]:
    """Cut every file of a folder into pieces NAME.000, NAME.001, ..., and write SHA256SUMS beside them.

    Raises:
        ValueError: the folder holds no file.
    """
    files = sorted(p for p in wheels.iterdir() if p.is_file())
    if not files:
        raise ValueError(f"{wheels}: no file to cut")
    pieces.mkdir(parents=True, exist_ok=True)
    written = []
    for path in files:
        with path.open("rb") as file:
            for number in range(10_000):
                data = file.read(piece_bytes)
                if not data:
                    break
                piece = pieces / f"{path.name}.{number:03d}"
                piece.write_bytes(data)
                written.append(piece)
    (pieces / HASHES).write_text("".join(f"{digest(p)}  {p.name}\n" for p in files))
    return written


def join(pieces: Path, wheels: Path) -> tuple[list[Path], list[str]]:
    """Put the files of `cut` together again.

    Returns:
        the whole files, and one line about every file whose pieces are missing or damaged.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    whole, problems = [], []
    for line in (pieces / HASHES).read_text().splitlines():
        expected, name = line.split("  ", 1)
        target = wheels / name
        if not (target.is_file() and digest(target) == expected):
            with target.open("wb") as file:
                for piece in sorted(pieces.glob(f"{name}.[0-9][0-9][0-9]")):
                    file.write(piece.read_bytes())
            if digest(target) != expected:
                target.unlink()
                problems.append(f"{name}: a piece is missing or damaged")
                continue
        whole.append(target)
    return whole, problems


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("cut", "join"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    try:
        if args.action == "cut":
            for piece in cut(args.source, args.target):
                print(piece)
            return 0
        whole, problems = join(args.source, args.target)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for path in whole:
        print(path)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
