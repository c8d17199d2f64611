"""python -m il2vseg.demo: the whole path on one screen, each step a command that a user could type.

Footage -> train -> evaluate -> export with parity -> stream. On the built-in synthetic scenes, or, with
IL2VSEG_DATA set, on its `intcatch` frames and `clips/river.mp4`.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from il2vseg.base.command import MAX_SEED, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command

PROGRAM = "python -m il2vseg.demo"
CLIP_FRAMES = 120
CLIP_SIZE = (360, 640)


@dataclass
class DemoConfig(Settings):
    """Train, evaluate, export and stream, and say where the results are."""

    out: Path = flag(Path("runs/demo"), "output folder", metavar="DIR")
    seed: int = flag(0, "seed of everything random", low=0, high=MAX_SEED, metavar="S")


def run_step(title: str, verb: str, *words: str | Path) -> None:
    """Show `il2vseg VERB ...` and run it.

    Raises:
        UserError: it failed; its own message stands above.
    """
    command = [verb, *map(str, words)]
    print(f"\n── {title}\n$ {shlex.join(['il2vseg', *command])}", flush=True)
    code = subprocess.run([sys.executable, "-m", "il2vseg", *command], check=False).returncode
    if code:
        raise UserError(f"the step '{title}' failed with exit code {code}")


def run(config: DemoConfig) -> None:
    """Run the demo; see the module's description."""
    out = config.out
    data = os.environ.get("IL2VSEG_DATA")
    if data:
        root = Path(data) / "intcatch"
        clip = Path(data) / "clips" / "river.mp4"
        if not root.is_dir() or not clip.is_file():
            raise UserError(f"IL2VSEG_DATA={data} holds no intcatch/ and clips/river.mp4; unset it")
        source: list[str | Path] = ["--dataset", "intcatch", "--root", root]
    else:
        from il2vseg.data.synthetic import write_clip

        clip = out / "clip.mp4"
        source = ["--dataset", "synthetic"]
        print(f"rendering {CLIP_FRAMES} synthetic frames: {clip}", flush=True)
        write_clip(clip, CLIP_FRAMES, seed=config.seed, size=CLIP_SIZE)
    model, results = out / "model", out / "evaluation"
    seed = str(config.seed)
    run_step(
        "train without labels", "train", *source, "--seed", seed, "--num-classes", "3", "--out", out,
    )  # fmt: skip
    run_step(
        "evaluate", "evaluate", "--checkpoint", out, *source, "--split", "val",
        "--json", results / "scores.json", "--plots", results,
    )  # fmt: skip
    run_step(
        "export and check the export", "export", "--checkpoint", out, "--out", model, "--verify", clip,
    )  # fmt: skip
    run_step(
        "stream the clip", "run", "--source", clip, "--model", model,
        "--save-video", out / "overlay.mp4", "--jsonl", out / "frames.jsonl",
    )  # fmt: skip
    scores = json.loads((results / "scores.json").read_text())
    print(
        f"\naccuracy {scores['accuracy']:.1f} %, mIoU {scores['miou']:.1f} % on {scores['images']} images"
        f"\noverlay video  {out / 'overlay.mp4'}\ncontact sheet  {results / 'sheet.png'}"
        f"\npreview        {out / 'preview.png'}"
        f"\nnumbers        {results / 'scores.json'}, {model / 'parity.json'}"
    )


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `python -m il2vseg.demo`."""
    return run_command(lambda: run(parse(DemoConfig, prog, argv)), prog)


if __name__ == "__main__":
    raise SystemExit(main())
