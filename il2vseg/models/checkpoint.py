"""Checkpoints: one safetensors file that describes itself. Loading one never runs code from it."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.base.files import atomic_path, sha256_file
from il2vseg.models.backbones import Backbone, backbone_spec, build_backbone
from il2vseg.models.network import Network
from il2vseg.models.segmenter import Classifier, Segmenter
from il2vseg.models.spec import FORMAT_VERSION, AdaptSpec, LowLevelSpec, ModelSpec
from il2vseg.models.student import METHOD as STUDENT
from il2vseg.models.student import Student, load_student
from il2vseg.models.weights import resolve_weights
from il2vseg.models.whitening import Whitening

FILE_NAME = "checkpoint.safetensors"
METADATA_KEY = "il2vseg"
BACKBONE_PREFIX = "backbone."
"""Of the tensors of a backbone that was trained whole; none of the classifier's begins with it."""


def _digest(tensors: dict[str, Tensor]) -> str:
    h = hashlib.sha256()
    for name in sorted(tensors):
        h.update(name.encode())
        h.update(tensors[name].contiguous().numpy().tobytes())
    return h.hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write tensors and a JSON description of them to one safetensors file, atomically."""
    from safetensors.torch import save

    tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
    # One key: safetensors writes several in no fixed order, and equal models should be equal files.
    metadata = {METADATA_KEY: json.dumps({"description": description, "sha256": _digest(tensors)})}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        UserError: the file is missing, truncated, not ours, or its content does not match its hash.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train one with `il2vseg train --out {path.parent}`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a complete safetensors file ({error}); train again or copy it again"
        ) from None
    if METADATA_KEY not in metadata:
        raise UserError(f"{path}: not a checkpoint of il2vseg (no description inside)")
    ours = json.loads(metadata[METADATA_KEY])
    if _digest(tensors) != ours["sha256"]:
        raise UserError(f"{path}: the content does not match its hash; copy the file again")
    description: dict[str, Any] = ours["description"]
    if description.get("format_version", FORMAT_VERSION) > FORMAT_VERSION:
        raise UserError(
            f"{path}: written by a newer il2vseg (format {description['format_version']}); update il2vseg"
        )
    return tensors, description


def save_checkpoint(
    folder: Path, classifier: Classifier, spec: ModelSpec, backbone: Backbone | None = None
) -> Path:
    """Write FOLDER/checkpoint.safetensors: the trained part and its description.

    Args:
        backbone: needed where it is part of the trained part (`backbone_tensors`); a frozen one is left out.
    """
    path = folder / FILE_NAME
    tensors = dict(classifier.state_dict())
    if backbone is not None:
        tensors |= {BACKBONE_PREFIX + name: tensor for name, tensor in backbone_tensors(backbone).items()}
    save_tensors(path, tensors, dataclasses.asdict(spec))
    return path


def backbone_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """The weights of a backbone that is trained whole, on the CPU; {} of a frozen one."""
    if not backbone_spec(backbone.name).trained:
        return {}
    return {name: tensor.cpu() for name, tensor in backbone.vit.state_dict().items()}


def backbone_digest(backbone: Backbone) -> str:
    """SHA-256 of the weights of a backbone that was trained whole; "" of a frozen one."""
    tensors = backbone_tensors(backbone)
    return _digest(tensors) if tensors else ""


def save_student(folder: Path, student: Student) -> Path:
    """Write FOLDER/checkpoint.safetensors: all of a finished student, which has no frozen part.

    Its weights are stored in half precision, which `il2vseg.models.student.finish` rounded them to.
    """
    path = folder / FILE_NAME
    tensors = {name: tensor.half() for name, tensor in student.state_dict().items()}
    save_tensors(path, tensors, dataclasses.asdict(student.spec))
    return path


def rename_clusters(folder: Path, names: Sequence[str]) -> None:
    """Store new names, one per cluster, in FOLDER/checkpoint.safetensors; equal names are one class."""
    tensors, description = load_tensors(folder / FILE_NAME)
    if len(names) != len(description["class_names"]):
        raise ValueError(f"{len(names)} names for {len(description['class_names'])} clusters")
    save_tensors(folder / FILE_NAME, tensors, description | {"class_names": list(names)})


def read_spec(folder: Path) -> ModelSpec:
    """Return the description of a checkpoint."""
    return _spec(load_tensors(folder / FILE_NAME)[1])


def _spec(description: dict[str, Any]) -> ModelSpec:
    d = dict(description)
    d["low_level"] = LowLevelSpec.of(d["low_level"])
    d["adapt"] = AdaptSpec(**d["adapt"]) if d.get("adapt") else None
    d["size"] = tuple(d["size"])
    d["class_names"] = tuple(d["class_names"])
    return ModelSpec(**d)


def load_classifier(tensors: dict[str, Tensor], spec: ModelSpec) -> Classifier:
    """Rebuild the trained part from its tensors."""
    components, dim = tensors["whitening.basis"].shape
    whitening, clusters = Whitening(dim, components, spec.centre), len(spec.class_names)
    # Before embeddings grew with the whitening they had 64 dimensions, whatever went in.
    embedding = tensors["global_prototypes"].shape[1]
    classifier = Classifier(whitening, clusters, spec.temperature, embedding)
    classifier.load_state_dict(tensors)
    return classifier.eval()


def load_checkpoint(
    folder: str | Path, *, size: tuple[int, int] | None = None, weights: str | Path | None = None
) -> Network:
    """Load a trained model, resolving its backbone's weights where it is frozen.

    Args:
        folder: where `save_checkpoint` wrote. size: input (H, W), default that of training.
        weights: the backbone's weights file, where the usual places cannot be reached.
    Raises:
        UserError: nothing whole to load, or the backbone's weights are not those it was trained with.
    """
    tensors, description = load_tensors(Path(folder) / FILE_NAME)
    spec = _spec(description)
    if spec.method == STUDENT:
        return load_student(tensors, spec, size)
    if backbone_spec(spec.backbone).trained:
        backbone = build_backbone(spec.backbone, size or spec.size, None)
        own = {k: tensors.pop(k) for k in list(tensors) if k.startswith(BACKBONE_PREFIX)}
        backbone.vit.load_state_dict({k.removeprefix(BACKBONE_PREFIX): v for k, v in own.items()})
        return assemble(backbone, load_classifier(tensors, spec), spec)
    file = resolve_weights(spec.backbone, None if weights is None else Path(weights))
    found = "random" if file is None else sha256_file(file)
    if found != spec.weights_sha256:
        raise UserError(
            f"{file}: not the weights that {folder} was trained with "
            f"(sha256 {found[:12]}…, not {spec.weights_sha256[:12]}…); pass the right file with --weights"
        )
    backbone = build_backbone(spec.backbone, size or spec.size, file, spec.even_exposure, spec.dark_only)
    return assemble(backbone, load_classifier(tensors, spec), spec)


def assemble(backbone: Backbone, classifier: Classifier, spec: ModelSpec) -> Segmenter:
    """Put the backbone and the trained part together as the spec says."""
    segmenter: Segmenter = Segmenter(backbone, classifier, spec).eval()
    return segmenter
