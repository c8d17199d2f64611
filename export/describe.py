"""What a network says of itself in the terms of an exported model."""

import dataclasses
from typing import TYPE_CHECKING

from il2vseg.base.classes import merge
from il2vseg.base.palette import class_colors
from il2vseg.runtime.manifest import ClassInfo, InputSpec, Manifest, ModelFile, Novelty, OutputSpec

if TYPE_CHECKING:
    from il2vseg.models.network import Network

INPUT = "frame"
"""Name of the graph's input."""


def class_infos(names: tuple[str, ...]) -> tuple[ClassInfo, ...]:
    """Classes of these names in their customary colours."""
    return tuple(ClassInfo(n, c) for n, c in zip(names, class_colors(names), strict=True))


def describe(network: "Network", name: str, files: tuple[ModelFile, ...] = (), batch: int = 1) -> Manifest:
    """Make the manifest of a network that is called `name`; `files` are its exports."""
    spec, adapt, (height, width) = network.spec, network.adapt, network.size
    novelty = Novelty(**spec.novelty) if spec.novelty else None
    # That of a student, at the stride of its coarser features.
    confidence = (height // 16, width // 16) if novelty else None
    names, clusters = merge(network.class_names)
    return Manifest(
        name=name,
        method=spec.method,
        backbone=spec.backbone,
        patch_size=network.patch,
        input=InputSpec(INPUT, height, width, batch),
        outputs=OutputSpec((height, width), (len(clusters), *network.grid), confidence),
        classes=class_infos(names),
        clusters=clusters,
        files=files,
        alpha=network.alpha,
        fcm=dataclasses.asdict(spec.low_level),
        adapt={} if adapt is None else dataclasses.asdict(adapt),
        novelty=novelty,
        training_data=spec.training_data,
    )
