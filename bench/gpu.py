"""python bench/gpu.py: training, exports and the runtime on this machine's GPU, in one table.

Every part runs in a process of its own, and says "not run: why" where something is missing, so that one
command does what can be done. Results: OUT/gpu.json and OUT/gpu.md. On a machine without a network, carry the
wheels in pieces (`bench/wheels.py`) and name their folder with --wheels.

    python bench/gpu.py                            # everything, on the GPU
    python bench/gpu.py --dry                      # every part on the CPU, as small as possible
    python bench/gpu.py --wheels pieces/ --weights dinov2_vits14.safetensors
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("train", "export", "parity", "rtx", "eager", "run", "distill")
"""In the order in which they run: `train` leaves a checkpoint for all others, `export` the graphs."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to run; default: all")
    parser.add_argument("--dry", action="store_true", help="on the CPU, as small as possible")
    parser.add_argument("--wheels", type=Path, help="folder of the pieces of bench/wheels.py")
    parser.add_argument("--weights", type=Path, help="weights file of DINOv2 ViT-S/14")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="output folder")
    parser.add_argument("--seconds", type=float, default=300.0, help="time limit of one part")
    return parser.parse_args()


def install(pieces: Path, out: Path) -> tuple[list[Path], list[str]]:
    """Join the wheels and install them into a folder each, so that one that fails spoils no other.

    Returns:
        the folders, for PYTHONPATH, and what went wrong.
    """
    sys.path.insert(0, str(Path(__file__).parent))
    from wheels import join

    wheels, problems = join(pieces, out / "wheels")
    folders = []
    for wheel in wheels:
        folder = out / "site" / wheel.name.split("-")[0]
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-compile",
        ]
        done = subprocess.run(
            [*command, "--upgrade", "--target", str(folder), str(wheel)], capture_output=True, text=True
        )
        if done.returncode:
            problems.append(f"{wheel.name}: {done.stderr.strip().splitlines()[-1]}")
        else:
            folders.append(folder)
    return folders, problems


def package_folder(out: Path) -> Path:
    """A folder from which `il2vseg` can be imported without being installed: links to the sources."""
    package = out / "package" / "il2vseg"
    package.mkdir(parents=True, exist_ok=True)
    for source in (*(ROOT / "il2vseg").iterdir(), ROOT / "export", ROOT / "calib", ROOT / "runtime"):
        link = package / source.name
        if not link.exists():
            link.symlink_to(source)
    return package.parent


def run_part(name: str, args: argparse.Namespace, environment: dict[str, str]) -> dict[str, object]:
    """Run a part in a process of its own: its rows, or why there are none."""
    script = ROOT / "bench" / "gpu_parts.py"
    command = [sys.executable, str(script), name, str(args.out)]
    command += ["--dry"] if args.dry else []
    command += ["--weights", str(args.weights)] if args.weights else []
    result = args.out / f"{name}.json"
    result.unlink(missing_ok=True)
    log = args.out / f"{name}.log"
    begun = time.monotonic()
    with log.open("w") as file:
        try:
            process = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=args.seconds
            )
            problem = f"exit code {process.returncode}: {last_line(log)}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"stopped after {args.seconds:g} s"
    # What a part had measured before it failed is kept.
    rows = json.loads(result.read_text()) if result.exists() else []
    return {"rows": rows, "problem": problem, "seconds": round(time.monotonic() - begun, 1)}


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def library_folders() -> list[str]:
    """Folders of NVIDIA's wheels: a process without PyTorch has to be told of them."""
    code = (
        "import nvidia, glob; print(*(d for p in nvidia.__path__ for d in glob.glob(p + '/*/lib')), sep=':')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip().split(":") if done.returncode == 0 else []


def machine() -> dict[str, str]:
    """What this is measured on."""
    code = (
        "import json, torch, os, platform; p = torch.cuda.is_available();"
        "print(json.dumps({'gpu': torch.cuda.get_device_name() if p else 'none',"
        "'capability': '.'.join(map(str, torch.cuda.get_device_capability())) if p else '',"
        "'torch': torch.__version__, 'cuda': torch.version.cuda or '',"
        "'python': platform.python_version(), 'cores': str(len(os.sched_getaffinity(0)))}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def markdown(report: dict[str, object]) -> str:
    """The report for people: a table per part, in the order of the parts."""
    described = ", ".join(f"{k} {v}" for k, v in report["machine"].items() if v)  # type: ignore[attr-defined]
    lines = [f"Machine: {described}.", ""]
    for name, part in report["parts"].items():  # type: ignore[attr-defined]
        lines += [f"### {name} ({part['seconds']:.0f} s)", ""]
        columns = list(dict.fromkeys(key for row in part["rows"] for key in row))
        if columns:
            lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines += ["| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in part["rows"]]
            lines.append("")
        if part["problem"]:
            lines += [f"not run to its end: {part['problem']}", ""]
    for problem in report["wheels"]:  # type: ignore[attr-defined]
        lines.append(f"wheel left out: {problem}")
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Run the parts and print the table; 1 when a part failed."""
    args = arguments()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    folders, problems = install(args.wheels, args.out) if args.wheels else ([], [])
    paths = [str(p) for p in (*folders, package_folder(args.out), ROOT / "bench")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    environment["PYTHONSAFEPATH"] = "1"  # only the folders above, since the sources would hide the package
    libraries = [*library_folders(), os.environ.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    if args.dry:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    report: dict[str, object] = {"machine": machine(), "dry": args.dry, "wheels": problems, "parts": {}}
    for name in args.parts:
        print(f"── {name}", flush=True)
        report["parts"][name] = run_part(name, args, environment)  # type: ignore[index]
        (args.out / "gpu.json").write_text(json.dumps(report, indent=1))
        (args.out / "gpu.md").write_text(markdown(report))
    print((args.out / "gpu.md").read_text())
    return int(any(part["problem"] for part in report["parts"].values()))  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
