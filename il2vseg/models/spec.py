"""The description of a model: plain values, stored in its checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from il2vseg.base.errors import UserError

FORMAT_VERSION = 2

PREDICTION_ALPHA = 0.15
"""α at prediction: milder than the 0.5 of the paper, since the colours of water and sky mislead."""

DEFAULT_WIDTH = 448
"""Width of the input where the user asks for no size."""

ColourSpace = Literal["rgb", "lab"]
Prior = Literal["none", "mass", "pixel"]


@dataclass(frozen=True)
class LowLevelSpec:
    """Settings of the low-level branch.

    The default is the form that helps: Lab colours and position, so that alike colours far apart are not
    one thing, and upsampling of the fused scores along the edges of the image. The paper's literal form is
    `LowLevelSpec(space="rgb", xy_weight=0, prior="none", sigma=0.1, refine=0)`.
    """

    scale: int = 1
    """Grid cells of the branch along one side of a patch token."""
    space: ColourSpace = "lab"
    xy_weight: float = 2.0
    """Weight of (x, y), which span [-0.5, 0.5], beside L, a and b in units of 100."""
    iterations: int = 3
    m: float = 2.0
    prior: Prior = "mass"
    """What weights memberships: nothing, the class's share of the image, or P_seg at the same cell."""
    sigma: float = 0.2
    """Bandwidth of the affinity in units of the features."""
    refine: int = 2
    """Cells of the edge-aware upsampling (`il2vseg.models.guided`) along one side of a cell of the scores; 0
    = bilinear upsampling."""
    refine_eps: float = 1e-3
    """Variance of colour, RGB in [0, 1], below which a window of 3x3 of them counts as flat."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "LowLevelSpec":
        """Read the settings that a checkpoint or a manifest holds, of this version or an older one.

        Raises:
            UserError: they ask for affinity in windows, which is no longer supported.
        """
        known = dict(values)
        if known.pop("window", 0):
            raise UserError("colour affinity in windows is no longer supported; train the model again")
        return cls(**known)


@dataclass(frozen=True)
class AdaptSpec:
    """Settings of the prototypes' adaptation to the image (`il2vseg.models.adapt`).

    No mask chose them: the strength is in the middle of the decade in which it hardly matters, the weight of
    the classes is small beside the 1 of the clusters.
    """

    strength: float = 30.0
    """λ: tokens that a cluster of the image needs to weigh as much as the trained prototype."""
    class_weight: float = 0.2
    """β: weight of the classes beside the clusters, where clusters are named; 0 = clusters alone."""
    sure: float = 0.6
    """Probability of a class from which a token speaks for it."""
    min_tokens: float = 8.0
    """Tokens up to which a class is too small to be a class of the image."""


@dataclass(frozen=True)
class ModelSpec:
    """What a checkpoint says of itself."""

    method: str
    backbone: str
    weights_sha256: str
    size: tuple[int, int]
    class_names: tuple[str, ...]
    """A name for every cluster; "class 3" until someone names them."""
    alpha: float
    """Weight of F_l at prediction (eq. 13)."""
    temperature: float
    centre: bool
    low_level: LowLevelSpec
    training_data: str
    selection: dict[str, Any] = field(default_factory=dict)
    """How the whitening was chosen: criterion and candidates."""
    adapt: AdaptSpec | None = None
    """How prototypes adapt to the image; None = not at all, as in checkpoints of format 1."""
    even_exposure: bool = False
    """Whether the backbone sees images of even exposure (`il2vseg.models.exposure`)."""
    dark_only: bool = False
    """Whether only those that are dark are evened."""
    novelty: dict[str, float] = field(default_factory=dict)
    """How the confidence of a student is to be read (`il2vseg.models.novelty`); empty where it has none."""
    format_version: int = FORMAT_VERSION
