"""A contact sheet of training frames and their predictions."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from il2vseg.data import Dataset
    from il2vseg.models.network import Predictor

PREVIEW_FRAMES = 6


def write_preview(path: Path, model: "Predictor", dataset: "Dataset") -> None:
    """Write PREVIEW_FRAMES frames, spread over the data set, beside what the model says of them."""
    import torch

    from il2vseg.base.images import resize_frame
    from il2vseg.base.palette import class_colors
    from il2vseg.data.dataset import spread
    from il2vseg.evaluation.plots import SheetRow, sheet

    rows = []
    for sample in dataset.only(spread(len(dataset), PREVIEW_FRAMES)):
        frame = resize_frame(sample.frame, model.size)
        labels = model.predict(torch.from_numpy(frame)[None])[0][0].numpy()
        rows.append(SheetRow(sample.name, sample.frame, labels))
    sheet(path, rows, model.class_names, class_colors(model.class_names))
