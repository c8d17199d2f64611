"""From footage without labels to a small model with names: python examples/own_footage.py [FOOTAGE].

Without footage it trains on rendered scenes. With your own, the script asks what the clusters are: look at
clusters.png in the model's folder before you answer.
"""

import sys
from pathlib import Path
from typing import Any

import il2vseg


def main(
    footage: str | None = None,
    out: str = "runs/example",
    train: dict[str, Any] | None = None,
    distil: dict[str, Any] | None = None,
) -> il2vseg.Model:
    """Train, name and distil; return the student.

    Args:
        train, distil: more flags of `il2vseg train` and `il2vseg distill`, such as limit or steps.
    """
    data: dict[str, Any] = {"dataset": "synthetic"}
    if footage is not None:
        data = {"dataset": "folder", "root": footage}
    il2vseg.train(**data, num_classes=3, clusters=6, out=out, **(train or {}))
    if footage is None:
        # Rendered scenes have masks, which name the clusters here as your eyes do for your own footage.
        names = names_by_masks(out)
        il2vseg.name(model=out, set=[f"{cluster}={name}" for cluster, name in enumerate(names)])
    else:
        il2vseg.name(model=out, root=footage)
        answer = input(f"What do the clusters in {Path(out, 'clusters.png')} show (0=water 1=sky ...)? ")
        il2vseg.name(model=out, set=answer.split())
    return il2vseg.distill(teacher=out, **data, out=f"{out}-lite", **(distil or {}))


def names_by_masks(checkpoint: str) -> list[str]:
    """For every cluster the class that it covers most in a few rendered scenes."""
    report = il2vseg.evaluate(checkpoint=checkpoint, dataset="synthetic", limit=8)
    return [report.class_names[c] for c in report.many_to_one_assignment]


if __name__ == "__main__":
    main(*sys.argv[1:])
