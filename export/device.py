"""Whether an exported model computes on this machine what it should: every provider against model.onnx."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.export.engine import source_file
from il2vseg.export.parity import LIMITS, ParityReport, compare
from il2vseg.export.runners import onnx_runner
from il2vseg.runtime.backends.providers import PROVIDERS, UnavailableError, choose_file
from il2vseg.runtime.manifest import Manifest, ModelFile, verify_file

if TYPE_CHECKING:
    from rich.table import Table

REFERENCE = ("cpu", "fp32")
"""Provider and precision of what the others are compared with; at export it was proven against the model."""


def candidates(manifest: Manifest) -> Iterator[tuple[str, ModelFile]]:
    """Yield what could run a model: a provider, and one of the files that it takes."""
    for name, provider in PROVIDERS.items():
        for precision in provider.precisions:
            if (name, precision) != REFERENCE:
                with suppress(UnavailableError):
                    yield name, choose_file(manifest, name, precision)


def compare_providers(
    folder: Path,
    frames: Callable[[tuple[int, int]], Iterator[tuple[str, Frame]]],
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, ParityReport], dict[str, str]]:
    """Run an exported model with every provider that works here and compare it with model.onnx on the CPU.

    Args:
        frames: gives (name, frame) of the model's size to compare on.
    Returns:
        reports by provider and precision ("openvino int8"), and by provider why files of it did not run.
    Raises:
        UserError: the model is damaged.
    """
    manifest = Manifest.load(folder)
    reference = onnx_runner(verify_file(folder, source_file(manifest, "fp32")))
    reports: dict[str, ParityReport] = {}
    absent: dict[str, list[str]] = {}
    for name, entry in candidates(manifest):
        progress(f"{name}: {entry.path}")
        verify_file(folder, entry)
        try:
            backend = PROVIDERS[name].open(folder, manifest, entry, None)
        except (UnavailableError, UserError) as error:
            absent.setdefault(name, []).append(str(error))
            continue
        report = compare(reference, backend, frames(manifest.size), LIMITS[entry.precision])
        reports[f"{name} {entry.precision}"] = report
        backend.close()
    return reports, {name: "; ".join(dict.fromkeys(reasons)) for name, reasons in absent.items()}


def table(title: str, reports: dict[str, ParityReport]) -> "Table":
    """A line for every report."""
    from rich.table import Table

    result = Table(title=title)
    result.add_column("provider")
    for heading in ("labels agree", "worst frame", "scores differ", "ms", "speed-up"):
        result.add_column(heading, justify="right")
    result.add_column("")
    for name, r in reports.items():
        result.add_row(
            name,
            f"{r.label_agreement:.3%}",
            f"{r.worst[0].agreement:.3%}",
            f"{r.max_score_difference:.1e}",
            f"{r.candidate_ms:.1f}",
            f"{r.reference_ms / r.candidate_ms:.2f}x",
            "; ".join(r.failures) or "passed",
        )
    return result
