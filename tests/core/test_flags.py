"""Every number that a user can pass, to any command, has bounds; what lies outside is one line and exit 2."""

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from il2vseg.base.command import Settings, from_dict
from il2vseg.base.errors import UserError

COMMANDS = {
    "il2vseg.train": "TrainConfig",
    "il2vseg.evaluate": "EvaluateConfig",
    "il2vseg.distill": "DistillConfig",
    "il2vseg.experiment": "ExperimentConfig",
    "il2vseg.label": "LabelConfig",
    "il2vseg.demo": "DemoConfig",
    "il2vseg.bench": "BenchConfig",
    "il2vseg.data.fetch": "FetchConfig",
    "il2vseg.export.cli": "ExportConfig",
    "il2vseg.export.tools.naming": "NameConfig",
    "il2vseg.export.tools.annotations": "AnnotateConfig",
    "il2vseg.runtime.cli": "RunConfig",
    "il2vseg.studio.cli": "StudioConfig",
}


def numbers() -> Iterator[tuple[str, type[Settings], str, int]]:
    """Module, settings, field and number of values of every flag that takes numbers."""
    for module, name in COMMANDS.items():
        settings = getattr(importlib.import_module(module), name)
        for field, kind in get_type_hints(settings).items():
            members = (kind, *get_args(kind), *(b for a in get_args(kind) for b in get_args(a)))
            if int in members or float in members:
                pairs = [m for m in members if str(m).startswith("tuple[")]
                yield module, settings, field, len(get_args(pairs[0])) if pairs else 1


CASES = [pytest.param(*case, id=f"{case[0].rpartition('.')[2]}-{case[2]}") for case in numbers()]
WRONG = ("-1e9", "-1000000000000000", "1000000000000000", "1e300", "nan", "NaN", "inf", "-inf", "many", "")


def test_every_command_is_walked() -> None:
    from tests.core.test_architecture import commands

    assert {*COMMANDS, "il2vseg.__main__"} == set(commands())
    assert len(CASES) > 50


@pytest.mark.parametrize(("module", "settings", "field", "count"), CASES)
def test_a_number_out_of_bounds_is_one_line_and_exit_code_2(
    module: str, settings: type[Settings], field: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = "--" + field.replace("_", "-")
    main = importlib.import_module(module).main
    for value in WRONG:
        try:
            code = main([flag, *[value] * count])
        except SystemExit as leaving:
            code = leaving.code
        error = capsys.readouterr().err
        assert code == 2, value
        assert flag in error, value
        assert error.count("\n") == 1, error


@pytest.mark.parametrize(("module", "settings", "field", "count"), CASES)
def test_the_same_bounds_hold_in_yaml_and_in_python(
    module: str, settings: type[Settings], field: str, count: int
) -> None:
    required = {
        f.name: "methods" if f.name == "grid" else "x"
        for f in dataclasses.fields(settings)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING
    }
    for text in ("-1000000000000000", "1000000000000000", ".nan", "-.inf", "1.0e300"):
        value: Any = yaml.safe_load(text)
        wrong = [value] * count if count > 1 else value
        with pytest.raises(UserError, match=rf"^f.yaml: {field} (must be|needs)"):
            from_dict(settings, {**required, field: wrong}, Path("f.yaml"))
        with pytest.raises(UserError, match=rf"^{field} (must be|needs)"):
            settings(**{**required, field: wrong})


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("il2vseg.train", "--alpha 1.5", "--alpha must be between 0 and 1 (got 1.5)"),
        (
            "il2vseg.train",
            "--whitening 1000",
            "--whitening must be at most 384, the dimensions of dinov2_vits14",
        ),
        ("il2vseg.train", "--whitening -3", "--whitening must be between 1 and 65536 (got -3)"),
        ("il2vseg.train", "--seed -1", "--seed must be between 0 and 4294967295 (got -1)"),
        ("il2vseg.train", "--num-classes 256", "--num-classes must be between 2 and 255 (got 256)"),
        ("il2vseg.train", "--clusters 4 --num-classes 5", "--clusters must be at least --num-classes"),
        ("il2vseg.runtime.cli", "--camera 0 --pitch nan", "--pitch must be a finite number (got nan)"),
        ("il2vseg.runtime.cli", "--camera 0 --pitch 90", "--pitch must be above -90 and below 90 (got 90.0)"),
        ("il2vseg.runtime.cli", "--camera 0 --disk-quota nan", "--disk-quota must be a finite number"),
        ("il2vseg.runtime.cli", "--camera 0 --disk-quota 0", "--disk-quota must be above 0"),
        ("il2vseg.runtime.cli", "--camera 0 --danger-zone -30", "--danger-zone must be between 0.1 and"),
        ("il2vseg.runtime.cli", "--camera 0 --danger-zone 0", "--danger-zone must be between 0.1 and"),
        ("il2vseg.runtime.cli", "--camera 0 --threads 9999", "--threads must be between 1 and"),
        ("il2vseg.runtime.cli", "--camera 0 --smoothing 1", "--smoothing must be at least 0 and below 1"),
    ],
)
def test_what_a_wrong_number_is_told(
    module: str, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = importlib.import_module(module).main(arguments.split())
    except SystemExit as leaving:
        code = leaving.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_bounds_themselves_are_accepted() -> None:
    from il2vseg.runtime.config import RunConfig
    from il2vseg.train import TrainConfig

    for alpha in (0, 1):
        assert TrainConfig(alpha=alpha).alpha == alpha
    assert TrainConfig(num_classes=2, seed=4294967295).seed == 4294967295
    assert RunConfig(smoothing=0, pitch=-89.9, threads=1, disk_quota=0.1).pitch == -89.9


def test_the_largest_seed_draws() -> None:
    from il2vseg.learning.draws import step_generator

    assert step_generator(4294967295, "smoothness", 1000, 64).initial_seed() >= 0


def test_keyword_arguments_may_be_plain_values() -> None:
    from il2vseg.train import TrainConfig

    config = TrainConfig(root="frames", size=[140, 280], alpha="0.5")  # type: ignore[arg-type]
    assert (config.root, config.size, config.alpha) == (Path("frames"), (140, 280), 0.5)
    with pytest.raises(UserError, match=r"clustering needs one of ward, .*not 'magic'"):
        TrainConfig(clustering="magic")  # type: ignore[arg-type]
