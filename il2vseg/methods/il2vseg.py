"""IL2Vseg as it holds between scenes, light and places; no loss of the paper (`joint`, `paper`) added to it.

Images of even exposure (all of them, or those that are dark), tokens centred per image, of many clusterings
the one that the others agree with, prototypes adapted to every image, and the low-level branch at prediction.
What each part is worth, and what was tried instead: docs/experiments.md.
"""

from dataclasses import dataclass

from il2vseg.methods.base import Method
from il2vseg.models.spec import PREDICTION_ALPHA, LowLevelSpec


@dataclass(frozen=True)
class IL2Vseg(Method):
    """Clusters of the whitened tokens, merged to classes."""

    predict_alpha: float = PREDICTION_ALPHA
    low_level: LowLevelSpec = LowLevelSpec()
    adapts: bool = True
    centre: bool | None = True
    even_exposure: bool = True
    dark_only: bool | None = None
    restarts: int = 16
