"""`il2vseg VERB ...`, also `python -m il2vseg VERB ...`: every command under one name."""

import importlib
import sys
from difflib import get_close_matches

from il2vseg import __version__
from il2vseg.base.redact import hide_arguments

VERBS = {
    "train": ("il2vseg.train", "train a segmenter from unlabelled frames"),
    "evaluate": ("il2vseg.evaluate", "score a model on a data set with masks"),
    "name": ("il2vseg.export.tools.naming", "show what every cluster is, and name the clusters"),
    "distill": ("il2vseg.distill", "teach a small network what a trained model computes"),
    "export": ("il2vseg.export.cli", "write a model as one ONNX graph, and prove that it computes the same"),
    "run": ("il2vseg.runtime.cli", "segment cameras, clips, folders and streams"),
    "label": ("il2vseg.label", "label an archive of images and clips"),
    "annotate": ("il2vseg.export.tools.annotations", "write pre-annotations that people correct"),
    "experiment": ("il2vseg.experiment", "train and score a grid of settings"),
    "studio": ("il2vseg.studio.cli", "train, name, distil, export and try a model on a page in the browser"),
    "demo": ("il2vseg.demo", "train, evaluate, export and stream on rendered scenes"),
    "bench": ("il2vseg.bench", "measure how long the hot paths take here"),
}
"""Module and description of every verb; a module's `main(argv, prog)` runs it."""


def usage() -> str:
    """The verbs, one per line."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {description}" for verb, (_, description) in VERBS.items()]
    return "\n".join(
        (
            "usage: il2vseg VERB [flags]",
            "",
            "Train a semantic segmenter from unlabelled footage, export it, prove the export, stream it.",
            "",
            *lines,
            "",
            "il2vseg VERB --help lists the flags of a verb, il2vseg --version shows the version.",
        )
    )


def main(argv: list[str] | None = None) -> int:
    """Run the verb that the first argument names, and return its exit code."""
    if argv is None:
        argv = sys.argv[1:]
        hide_arguments(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    verb, *rest = argv
    if verb == "--version":
        print(f"il2vseg {__version__}")
        return 0
    if verb not in VERBS:
        close = get_close_matches(verb, VERBS, 2, 0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(VERBS)}"
        print(f"il2vseg: unknown verb {verb!r}; {hint} (see il2vseg --help)", file=sys.stderr)
        return 2
    code: int = importlib.import_module(VERBS[verb][0]).main(rest, prog=f"il2vseg {verb}")
    return code


if __name__ == "__main__":
    sys.exit(main())
