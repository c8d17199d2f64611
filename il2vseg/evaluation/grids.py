"""The grids of `il2vseg.experiment`: which trainings, and which forms of them, are compared."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from il2vseg.base.command import read_yaml, to_dict, to_yaml
from il2vseg.base.errors import UserError
from il2vseg.base.files import write_text
from il2vseg.methods import METHODS
from il2vseg.models.spec import PREDICTION_ALPHA, LowLevelSpec


@dataclass(frozen=True)
class Variant:
    """A row of the table: settings of the training, of its recipe, and of the branch at prediction.

    Attributes:
        recipe: settings by their paths, see `Recipe.changed`.
        alpha, low_level: changes to what the training left in its checkpoint.
        curve: of a sweep, the name of its curve and the place on it.
    """

    name: str
    train: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    alpha: float | None = None
    low_level: dict[str, Any] = field(default_factory=dict)
    curve: tuple[str, float] | None = None

    @property
    def run_name(self) -> str:
        """Folder of its runs; variants that differ only at prediction share one."""
        return _name({**self.train, **self.recipe}) or "default"

    @property
    def scores_name(self) -> str:
        """File of its scores in a run's folder."""
        at_prediction = {} if self.alpha is None else {"alpha": self.alpha}
        return "-".join(filter(None, ("scores", _name(at_prediction | self.low_level)))) + ".json"


def _name(changes: dict[str, Any]) -> str:
    return "_".join(f"{k}-{v}" for k, v in changes.items())


def check_kept(config: Any, out: Path, free: Collection[str]) -> None:
    """Make sure that the results kept in `out` are of the same settings; write those of a new folder.

    Args:
        config: the dataclass of the command, with a field `out`. free: fields that may differ.
    Raises:
        UserError: they are not.
    """
    path = out / "settings.yaml"
    ours = {k: v for k, v in to_dict(config).items() if k not in free}
    if path.exists():
        theirs = read_yaml(path)
        changed = [k for k in ours if ours[k] != theirs.get(k)]
        if changed:
            raise UserError(
                f"{out} holds results of other settings ({', '.join(changed)}); use another --out"
            )
    else:
        write_text(path, to_yaml(replace(config, out=None)))


JOINT = {"method": "joint"}
"""The method with all losses, whose parts are taken apart."""

WITHOUT_BRANCH: dict[str, Any] = {"alpha": 0.0, "low_level": {"refine": 0}}
WITH_BRANCH: dict[str, Any] = {"alpha": PREDICTION_ALPHA, "low_level": {"refine": LowLevelSpec().refine}}


def _methods() -> list[Variant]:
    """Every method with its own settings."""
    return [Variant(name, {"method": name}) for name in METHODS]


def _ablation() -> list[Variant]:
    """The losses of the paper's Table 4 and L_fused, each with and without the branch at prediction."""
    smoothness = "method.smoothness"
    no_corr = {"method.correspondence.steps": 0, f"{smoothness}.correspondence_weight": 0.0}
    no_eigen = {f"{smoothness}.gamma": 0.0, f"{smoothness}.beta": 0.0}
    no_fused = {f"{smoothness}.fused_weight": 0.0}
    trainings: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("none (prototypes)", {"method": "kmeans"}, {}),
        ("L_smo", JOINT, no_corr | no_eigen | no_fused),
        ("L_smo + L_fs + L_reg", JOINT, no_corr | no_fused),
        ("L_corr", {"method": "stego"}, {}),
        ("L_smo + L_corr", JOINT, no_eigen | no_fused),
        ("L_smo + L_corr + L_fs + L_reg (paper)", JOINT, no_fused),
        ("L_smo + L_corr + L_fused", JOINT, no_eigen),
        ("all", JOINT, {}),
    ]
    return [
        Variant(f"{name}{suffix}", train, recipe, **branch)
        for name, train, recipe in trainings
        for suffix, branch in (("", WITHOUT_BRANCH), (" + branch", WITH_BRANCH))
    ]


def _alpha() -> list[Variant]:
    """α in training (prediction at its default), at prediction (training at its default), in both."""
    values = (0.0, 0.25, 0.5, 0.75, 1.0)
    trained = {a: {f"method.smoothness.{name}": a for name in ("train_alpha", "fused_alpha")} for a in values}
    return [
        *(Variant(f"training α = {a:g}", JOINT, trained[a], curve=("training", a)) for a in values),
        *(Variant(f"prediction α = {a:g}", JOINT, alpha=a, curve=("prediction", a)) for a in values),
        *(Variant(f"both α = {a:g}", JOINT, trained[a], a, curve=("both", a)) for a in values),
    ]


def _low_level() -> list[Variant]:
    """Forms of the low-level branch, all on the same trainings."""
    literal = {"space": "rgb", "xy_weight": 0.0, "prior": "none", "sigma": 0.1}
    forms: list[tuple[str, float, dict[str, Any]]] = [
        ("no branch", 0.0, {"refine": 0}),
        ("F_l of the paper, α = 0.5", 0.5, literal | {"refine": 0}),
        ("F_l, α = 0.3", 0.3, {"refine": 0}),
        ("F_l, α = 0.15", 0.15, {"refine": 0}),
        ("guided, 1 cell", 0.0, {"refine": 1}),
        ("guided, ε = 0.01", 0.0, {"refine": 2, "refine_eps": 0.01}),
        ("guided", 0.0, {"refine": 2}),
        ("guided, F_l, α = 0.15", 0.15, {"refine": 2}),
        ("guided, F_l, α = 0.3", 0.3, {"refine": 2}),
    ]
    return [Variant(name, JOINT, alpha=alpha, low_level=changes) for name, alpha, changes in forms]


def _backbones() -> list[Variant]:
    from il2vseg.models.backbones import BACKBONES

    frozen = [name for name, spec in BACKBONES.items() if not (spec.random or spec.trained)]
    return [Variant(name, {"backbone": name}) for name in frozen]


def _transfer() -> list[Variant]:
    """Every method with what it chooses for itself, what lies between kmeans and il2vseg, il2vseg without one
    of its parts, and the strongest rivals with more whitened dimensions than the number of classes gives."""
    adapted = {"method": "kmeans", "centre": True, "adapt": True}
    ours = {"method": "il2vseg"}
    no_branch = {"method.predict_alpha": 0.0, "method.low_level.refine": 0}
    rich = {"whitening": 64}
    return [
        *_methods(),
        Variant("kmeans, centred, adapted", adapted),
        Variant("kmeans, centred, adapted, even exposure", adapted | {"even_exposure": True}),
        Variant("kmeans, centred, adapted, 128 dimensions", adapted | {"whitening": 128}),
        Variant("il2vseg, exposure as it is", ours | {"even_exposure": False}),
        Variant("il2vseg, all images evened", ours | {"dark_only": False}),
        Variant("il2vseg, not adapted", ours | {"adapt": False}),
        Variant("il2vseg, not centred, not adapted", ours | {"centre": False}),
        Variant("il2vseg, one clustering", ours, {"method.restarts": 1}),
        Variant("il2vseg, no low-level branch", ours, no_branch),
        *(Variant(f"{rival}, 64 dimensions", {"method": rival} | rich) for rival in ("hp", "eagle")),
        *(
            Variant(f"{rival}, centred, 64 dimensions", {"method": rival, "centre": True} | rich)
            for rival in ("hp", "eagle")
        ),
    ]


def variants(grid: str) -> list[Variant]:
    """The rows of a grid."""
    if grid == "backbones":
        return _backbones()
    return {
        "methods": _methods(),
        "ablation": _ablation(),
        "alpha": _alpha(),
        "low-level": _low_level(),
        "seeds": [Variant("il2vseg", {"method": "il2vseg"})],
        "transfer": _transfer(),
    }[grid]
