"""Export a checkpoint, prove the export, and run it: python examples/export_and_verify.py [CHECKPOINT]."""

import json
import sys
from pathlib import Path
from typing import Any

import il2vseg
from il2vseg.data.synthetic import render


def main(checkpoint: str = "runs/example-lite", **settings: Any) -> il2vseg.Model:
    """Export a checkpoint; return the export as a model. A graph that computes something else is refused."""
    try:
        folder = il2vseg.export(checkpoint=checkpoint, **settings)
    except il2vseg.CheckFailed as failure:
        sys.exit(f"the export is not what was trained: {failure}")
    parity = json.loads(Path(folder, "parity.json").read_text())
    print(f"labels agree on {parity['label_agreement']:.3%} of the pixels")
    trained, exported = il2vseg.load(checkpoint), il2vseg.load(folder)
    frame = render(5, 0, (360, 640))[0]
    same = (trained(frame).labels == exported(frame).labels).mean()
    print(f"{trained} and {exported} agree on {same:.3%} of a new frame")
    return exported


if __name__ == "__main__":
    main(*sys.argv[1:])
