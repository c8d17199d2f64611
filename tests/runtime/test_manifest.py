import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.base.errors import UserError
from il2vseg.runtime.manifest import Manifest, ModelFile, describe_file, verify_file

VALUES: dict[str, Any] = {
    "format_version": 1,
    "name": "river",
    "method": "il2vseg",
    "backbone": "dinov2_vits14",
    "patch_size": 14,
    "input": {"name": "frame", "height": 336, "width": 448},
    "outputs": {"labels": [336, 448], "scores": [4, 24, 32]},
    "classes": [
        {"name": "obstacle", "color": [247, 195, 37]},
        {"name": "water", "color": [41, 167, 224]},
        {"name": "sky", "color": [90, 75, 164]},
    ],
    "clusters": [0, 1, 1, 2],
    "alpha": 0.3,
    "fcm": {"iterations": 3, "m": 2.0, "sigma": 0.1},
    "training_data": "281 frames",
    "tools": {"il2vseg": "0.1.0"},
    "opset": 18,
    "files": [
        {
            "path": "model.onnx",
            "format": "onnx",
            "precision": "fp32",
            "target": "any",
            "sha256": "0" * 64,
            "parity": {"label_agreement": 0.9999},
            "engine": None,
        }
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """A copy of VALUES with the field at the dotted path replaced, or removed where value is `...`."""
    copy: Any = json.loads(json.dumps(VALUES))
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    at = copy
    for key in parents:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return copy


def test_round_trips_through_its_file(tmp_path: Path) -> None:
    manifest = Manifest.from_dict(VALUES, Path("m"))
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert manifest.size == (336, 448)
    assert manifest.class_names == ("obstacle", "water", "sky")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", ..., "name: missing"),
        ("input.width", ..., "input.width: missing"),
        ("input.width", "448", "input.width: int is expected"),
        ("input.width", True, "input.width: int is expected"),
        ("surprise", 1, "surprise: unknown field"),
        ("outputs.labels", [336], "outputs.labels: 2 values"),
        ("outputs.labels", [336, 447], "outputs.labels: (336, 447) is not the input size"),
        ("clusters", [0, 1, 2], "clusters: 3 entries for 4"),
        ("clusters", [0, 1, 2, 3], "clusters[3]: there is no class 3"),
        ("clusters", 4, "clusters: a list"),
        ("classes.1.color", [0, 0, 256], "classes[1].color"),
        ("files", [], "files: at least one"),
        ("files.0.precision", "int4", "files[0].precision: 'int4' is not one of"),
        ("files.0.path", "../secret", "files[0].path"),
        ("files.0.path", "/etc/passwd", "files[0].path"),
        ("files.0.engine", {"tensorrt": "11.4"}, "files[0].engine.gpu: missing"),
        ("fcm", [], "fcm: a mapping"),
        ("input", 3, "input: a mapping"),
    ],
)
def test_a_wrong_field_is_named_with_the_file(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        Manifest.from_dict(changed(path, value), Path("a/manifest.json"))
    assert str(error.value).startswith("a/manifest.json: ")
    assert message in str(error.value)


def test_a_newer_format_says_which_il2vseg_is_needed() -> None:
    values = changed("format_version", 2) | {"tools": {"il2vseg": "0.9.0"}, "novelty": 1}
    with pytest.raises(UserError, match=r"install il2vseg 0\.9\.0 or newer"):
        Manifest.from_dict(values, Path("m"))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=3))
def test_any_other_json_is_refused_in_one_line(value: Any) -> None:
    for values in (value, {"format_version": 1, "name": value}):
        with pytest.raises(UserError) as error:
            Manifest.from_dict(values, Path("m"))
        assert "\n" not in str(error.value)


def test_a_missing_or_truncated_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not an exported model"):
        Manifest.load(tmp_path)
    path = Manifest.from_dict(VALUES, Path("m")).save(tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="not valid JSON"):
        Manifest.load(tmp_path)


@pytest.fixture
def entry(tmp_path: Path) -> ModelFile:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    return describe_file(tmp_path, "model.onnx", format="onnx", precision="fp32")


def test_a_whole_file_verifies(tmp_path: Path, entry: ModelFile) -> None:
    assert verify_file(tmp_path, entry) == tmp_path / "model.onnx"
    assert verify_file(tmp_path, dataclasses.replace(entry, bytes=None)).is_file()


@pytest.mark.parametrize(("content", "message"), [(b"grap", "has 4 bytes"), (b"GRAPH", "does not match")])
def test_a_damaged_file_is_refused(tmp_path: Path, entry: ModelFile, content: bytes, message: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=message):
        verify_file(tmp_path, entry)


def test_a_missing_file_is_refused(tmp_path: Path, entry: ModelFile) -> None:
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(UserError, match="missing, though the manifest lists it"):
        verify_file(tmp_path, entry)
