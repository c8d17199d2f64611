"""Mixed precision: which half type matrix products are computed in."""

from typing import Literal

import torch

MixedPrecision = Literal["no", "bf16", "fp16"]

AUTOCAST: dict[MixedPrecision, torch.dtype] = {
    "no": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def autocast(device: torch.device, precision: MixedPrecision) -> torch.autocast:
    """A context in which matrix products on `device` are computed in `precision`."""
    return torch.autocast(device.type, AUTOCAST[precision], enabled=precision != "no")
