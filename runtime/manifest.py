"""manifest.json: what a device needs to know of an exported model, checked before anything is loaded.

The dataclasses are the schema: names, types and optional fields of the JSON are those of the fields here.
"""

import dataclasses
import types
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from il2vseg.base.errors import UserError
from il2vseg.base.files import sha256_file, write_json

if TYPE_CHECKING:
    import numpy as np

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1

Format = Literal["onnx", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["any", "cpu", "tensorrt"]

T = TypeVar("T")


@dataclass(frozen=True)
class InputSpec:
    """The graph's input: uint8 (1, height, width, 3), BGR; with a `batch` above 1, up to so many frames."""

    name: str
    height: int
    width: int
    batch: int = 1


@dataclass(frozen=True)
class OutputSpec:
    """Shapes of the outputs without their batch: labels (H, W), scores (C, h, w), and confidence (h, w)
    where the graph has that."""

    labels: tuple[int, int]
    scores: tuple[int, int, int]
    confidence: tuple[int, int] | None = None

    def arrays(self) -> "dict[str, tuple[tuple[int, ...], type[np.generic]]]":
        """Shape without the batch, and type, of every output by name, in their order."""
        import numpy as np

        arrays: dict[str, tuple[tuple[int, ...], type[np.generic]]]
        arrays = {"labels": (self.labels, np.uint8), "scores": (self.scores, np.float32)}
        if self.confidence is not None:
            arrays["confidence"] = (self.confidence, np.float32)
        return arrays


@dataclass(frozen=True)
class Novelty:
    """When footage is unlike that of the training, by the output `confidence`.

    Attributes:
        cell: a cell of less confidence is unlike the training footage.
        frame: a frame in which a larger share of the cells is so is unlike it, too.
    """

    cell: float
    frame: float


@dataclass(frozen=True)
class ClassInfo:
    """A class as people see it; the colour is RGB, 0 to 255."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class EngineInfo:
    """What a TensorRT engine was built with, and for: it loads nowhere else."""

    tensorrt: str
    gpu: str
    compute_capability: str
    cuda: str
    driver: str


@dataclass(frozen=True)
class ModelFile:
    """A file of the model, beside the manifest.

    Attributes:
        path: relative to the manifest's folder, without leaving it.
        target: which family of providers it is meant for; INT8 for CPUs and for TensorRT differ.
        sha256: of the whole file, lower-case hex. bytes: its size, None where the writer did not say.
        parity: the report of the check against the trained model, None when it was not made.
        engine: set for TensorRT engines only.
        quantization: how an INT8 file was calibrated, and which layers stayed in float.
    """

    path: str
    format: Format
    precision: Precision
    target: Target
    sha256: str
    bytes: int | None = None
    parity: dict[str, Any] | None = None
    engine: EngineInfo | None = None
    quantization: dict[str, Any] | None = None


@dataclass(frozen=True)
class Manifest:
    """An exported model.

    Attributes:
        clusters: for every cluster of the graph the index of its class; many clusters may share a class.
        alpha, fcm: settings of the low-level branch that is inside the graph, for the record.
        novelty: how its confidence is to be read; None where the graph has none.
        adapt: settings of the prototypes' adaptation to the image, inside the graph too; empty = none.
    """

    name: str
    method: str
    backbone: str
    patch_size: int
    input: InputSpec
    outputs: OutputSpec
    classes: tuple[ClassInfo, ...]
    clusters: tuple[int, ...]
    files: tuple[ModelFile, ...]
    alpha: float = 0.0
    fcm: dict[str, Any] = field(default_factory=dict)
    adapt: dict[str, Any] = field(default_factory=dict)
    novelty: Novelty | None = None
    training_data: str = ""
    tools: dict[str, str] = field(default_factory=dict)
    opset: int = 18
    format_version: int = FORMAT_VERSION

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the graph's input."""
        return self.input.height, self.input.width

    @property
    def distilled(self) -> bool:
        """Whether the model is a student, a small network of convolutions."""
        return self.method == "distilled"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their ids."""
        return tuple(c.name for c in self.classes)

    @classmethod
    def from_dict(cls, values: Any, source: Path) -> "Manifest":
        """Build a manifest from parsed JSON, checking every field.

        Raises:
            UserError: a field is missing, unknown, of the wrong type or contradicts another one, or the
                format is newer than this package; the message names `source` and the field.
        """
        _check_version(values, source)
        try:
            manifest = cast(Manifest, _build(cls, values, ""))
            _check_consistency(manifest)
        except _FieldError as error:
            raise UserError(f"{source}: {error}; export the model again") from None
        return manifest

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read FOLDER/manifest.json.

        Raises:
            UserError: there is none, it is not JSON, or it is not valid (see `from_dict`).
        """
        import json

        path = folder / FILE_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{path}: no such file; {folder} is not an exported model (il2vseg-export makes one)"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not valid JSON ({error}); export the model again") from None
        return cls.from_dict(values, path)

    def save(self, folder: Path) -> Path:
        """Write FOLDER/manifest.json atomically and return its path."""
        path = folder / FILE_NAME
        write_json(path, {"format_version": self.format_version} | dataclasses.asdict(self))
        return path


def describe_file(
    folder: Path,
    path: str,
    *,
    format: Format,
    precision: Precision,
    target: Target = "any",
    parity: dict[str, Any] | None = None,
    engine: EngineInfo | None = None,
    quantization: dict[str, Any] | None = None,
) -> ModelFile:
    """Make the manifest's entry for FOLDER/path, with its hash and size."""
    file = folder / path
    return ModelFile(
        path=path,
        format=format,
        precision=precision,
        target=target,
        sha256=sha256_file(file),
        bytes=file.stat().st_size,
        parity=parity,
        engine=engine,
        quantization=quantization,
    )


def verify_file(folder: Path, entry: ModelFile) -> Path:
    """Check that FOLDER/entry.path is the file that the manifest describes.

    Returns:
        its path.
    Raises:
        UserError: it is missing, of another size, or its SHA-256 differs.
    """
    path = folder / entry.path
    if not path.is_file():
        raise UserError(f"{path}: missing, though the manifest lists it; copy it again or export again")
    size = path.stat().st_size
    if entry.bytes is not None and size != entry.bytes:
        raise UserError(
            f"{path}: has {size} bytes, the manifest says {entry.bytes}; copy the file again or export again"
        )
    found = sha256_file(path)
    if found != entry.sha256:
        raise UserError(
            f"{path}: does not match the manifest (sha256 {found[:12]}…, expected {entry.sha256[:12]}…); "
            "copy the file again or export again"
        )
    return path


class _FieldError(Exception):
    """A field of the manifest is wrong; the message names it."""


def _check_version(values: Any, source: Path) -> None:
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{source}: no format_version, so not a manifest of il2vseg; export the model again")
    if version > FORMAT_VERSION:
        tools = values.get("tools")
        writer = tools.get("il2vseg") if isinstance(tools, dict) else None
        needed = f"il2vseg {writer} or newer" if isinstance(writer, str) else "a newer il2vseg"
        raise UserError(
            f"{source}: format {version}, this il2vseg reads up to {FORMAT_VERSION}; install {needed}"
        )


def _check_consistency(m: Manifest) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise _FieldError(message)

    require(min(*m.size, m.input.batch) > 0, "input: height, width and batch are at least 1")
    require(m.outputs.labels == m.size, f"outputs.labels: {m.outputs.labels} is not the input size {m.size}")
    require(min(m.outputs.scores) > 0, "outputs.scores: every extent is at least 1")
    require(1 <= len(m.classes) <= 255, "classes: from 1 to 255 are needed")
    require(
        len(m.clusters) == m.outputs.scores[0],
        f"clusters: {len(m.clusters)} entries for {m.outputs.scores[0]} clusters of the graph",
    )
    for i, c in enumerate(m.clusters):
        require(0 <= c < len(m.classes), f"clusters[{i}]: there is no class {c}")
    for i, info in enumerate(m.classes):
        require(all(0 <= v <= 255 for v in info.color), f"classes[{i}].color: values are from 0 to 255")
    require(len(m.files) > 0, "files: at least one is needed")
    for i, entry in enumerate(m.files):
        parts = PurePosixPath(entry.path)
        inside = parts.name != "" and not parts.is_absolute() and ".." not in parts.parts
        require(inside, f"files[{i}].path: {entry.path!r} is not inside the model's folder")


def _build(kind: Any, value: Any, name: str) -> Any:
    """Convert parsed JSON to the type `kind`; `name` is the field's path for the message."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):  # X | None is the only union in the schema
        return None if value is None else _build(args[0], value, name)
    if origin is Literal:
        if value not in args:
            raise _FieldError(f"{name}: {value!r} is not one of {', '.join(args)}")
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(cast(type[Any], kind), value, name)
    if origin is tuple:
        if not isinstance(value, list):
            raise _FieldError(f"{name}: a list is expected, not {value!r}")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise _FieldError(f"{name}: {len(kinds)} values are expected, not {len(value)}")
        return tuple(_build(k, v, f"{name}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise _FieldError(f"{name}: a mapping is expected, not {value!r}")
        return {k: _build(args[1], v, f"{name}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _FieldError(f"{name}: {kind.__name__} is expected, not {value!r}")
    return value


def _build_dataclass(kind: type[T], value: Any, name: str) -> T:
    prefix = f"{name}." if name else ""
    if not isinstance(value, dict):
        raise _FieldError(f"{name or 'manifest'}: a mapping is expected, not {value!r}")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(value) - set(fields)):
        raise _FieldError(f"{prefix}{unknown[0]}: unknown field")
    hints = get_type_hints(kind)
    built = {k: _build(hints[k], v, prefix + k) for k, v in value.items()}
    for key, declared in fields.items():
        if (
            key not in built
            and declared.default is dataclasses.MISSING
            and declared.default_factory is dataclasses.MISSING
        ):
            raise _FieldError(f"{prefix}{key}: missing")
    return kind(**built)
