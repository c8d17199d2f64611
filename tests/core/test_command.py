from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from il2vseg import __version__
from il2vseg.base.command import Settings, flag, from_dict, parse, read_yaml, to_dict, to_yaml
from il2vseg.base.errors import UserError


@dataclass
class Config:
    """Bake a cake. 100% of it."""

    out: Path
    flour: int = flag(500, "grams of flour, 100% rye")
    heat: float = flag(180.0, "degrees")
    kind: Literal["plain", "marble"] = flag("plain", "what cake")
    size: tuple[int, int] | None = flag(None, "height and width", metavar="CM")
    pan: tuple[int, int] = flag((20, 30), "pan")
    tags: tuple[str, ...] | None = flag(None, "any words")
    seed: int = flag(0, "seed")
    cover: bool = flag(False, "cover it")
    fan: bool = flag(True, "use the fan")
    sweet: bool | None = flag(None, "sweet or not")
    note: str | None = flag(None, "a note")
    eggs: int | Literal["some"] = flag(3, "how many eggs")
    config: Path | None = flag(None, "settings", metavar="FILE.yaml")


def cake(*argv: str) -> Config:
    return parse(Config, "cake", list(argv))


def test_a_number_or_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cake("--out", "x", "--eggs", "4").eggs == 4
    assert cake("--out", "x", "--eggs", "some").eggs == "some"
    for value in (5, "some"):
        (tmp_path / "cake.yaml").write_text(f"eggs: {value}\n")
        assert cake("--out", "x", "--config", str(tmp_path / "cake.yaml")).eggs == value
    with pytest.raises(SystemExit):
        cake("--out", "x", "--eggs", "many")
    assert "--eggs: invalid int or some value: 'many'" in capsys.readouterr().err
    (tmp_path / "cake.yaml").write_text("eggs: many\n")
    with pytest.raises(UserError, match="eggs needs int or some, not 'many'"):
        cake("--out", "x", "--config", str(tmp_path / "cake.yaml"))


def test_a_removed_flag_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Bread(Settings):
        REMOVED: ClassVar[dict[str, str]] = {"--yeast": "dough rises by itself; leave it out"}
        flour: int = flag(500, "grams")

    assert parse(Bread, "bread", ["--flour", "3"]).flour == 3
    for argv in (["--yeast", "2"], ["--flour", "3", "--yeast=2"]):
        with pytest.raises(SystemExit) as end:
            parse(Bread, "bread", argv)
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert "--yeast is no longer supported: dough rises by itself; leave it out" in error
        assert error.count("\n") == 1


def test_a_positional_argument_has_no_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Grid:
        kind: Literal["a", "b"] = flag(MISSING, "which", positional=True)
        seeds: int = flag(3, "how many")

    assert parse(Grid, "grid", ["b", "--seeds", "1"]) == Grid("b", 1)
    for argv in ([], ["c"]):
        with pytest.raises(SystemExit):
            parse(Grid, "grid", argv)
        assert "kind" in capsys.readouterr().err


def test_defaults_are_those_of_the_dataclass() -> None:
    assert cake("--out", "x") == Config(Path("x"))


def test_flags_of_every_type() -> None:
    argv = "--out x --flour 3 --heat 1e2 --kind marble --size 4 5 --tags 0=a 1=b "
    argv += "--cover --no-fan --no-sweet --note -"
    assert cake(*argv.split()) == Config(
        Path("x"),
        3,
        100.0,
        "marble",
        (4, 5),
        tags=("0=a", "1=b"),
        cover=True,
        fan=False,
        sweet=False,
        note="-",
    )


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ("--out x --flour many", "--flour"),
        ("--out x --kind sour", "marble"),
        ("--out x --size 4", "--size"),
        ("--out x --fl 3", "--fl"),
        ("--out x extra", "extra"),
        ("--flour 3", "--out"),
    ],
)
def test_wrong_flag_is_one_line_and_exit_code_2(
    argv: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cake(*argv.split())
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert named in error
    assert error.startswith("cake: ")
    assert error.count("\n") == 1


def test_help_shows_help_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cake("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    for text in (
        "100% of it",
        "100% rye (default: 500)",
        "(default: 20 30)",
        "seed (default: 0)",
        "{plain,marble}",
        "--no-sweet",
        "--size CM CM",
    ):
        assert text in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cake("--version")
    assert capsys.readouterr().out == f"il2vseg {__version__}\n"


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "cake.yaml"
    file.write_text("out: y\nflour: 7\nheat: 1e2\nsize: [1, 2]\n")
    assert cake("--config", str(file), "--flour", "8") == Config(
        Path("y"), flour=8, heat=100.0, size=(1, 2), config=file
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sugar: 3", "unknown setting 'sugar'; known: out, flour"),
        ("flour: many", "flour needs a value of type int, not 'many'"),
        ("flour: 2.5", "flour needs a value of type int"),
        ("flour: true", "flour needs a value of type int"),
        ("flour: null", "flour needs a value of type int"),
        ("cover: 1", "cover needs a value of type bool"),
        ("kind: sour", "kind needs one of plain, marble, not 'sour'"),
        ("size: [1]", "size needs a list of 2 values"),
        ("size: [a, b]", "size needs a value of type int"),
        ("size: 3", "size needs a list of 2 values"),
        ("tags: []", "tags needs a list of one or more values"),
        ("out: [a]", "out needs a path"),
        ("note: {a: b}", "note needs a value of type str"),
        ("- a\n- b", "a mapping of settings is expected"),
        ("", "a mapping of settings is expected"),
        ("a: [", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_wrong_setting_names_the_file_and_the_setting(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "cake.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        cake("--config", str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "absent.yaml")


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text("out: !!python/object/apply:os.getcwd []")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(file)


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)


@given(
    st.builds(
        Config,
        out=st.builds(Path, text),
        flour=st.integers(-(2**40), 2**40),
        heat=st.floats(allow_nan=False, allow_infinity=False),
        kind=st.sampled_from(["plain", "marble"]),
        size=st.none() | st.tuples(st.integers(), st.integers()),
        tags=st.none() | st.lists(text, min_size=1).map(tuple),
        cover=st.booleans(),
        sweet=st.none() | st.booleans(),
        note=st.none() | text,
    )
)
def test_configuration_survives_yaml(config: Config) -> None:
    assert from_dict(Config, yaml.safe_load(to_yaml(config)), Path("f")) == config
    assert from_dict(Config, to_dict(config), Path("f")) == config


@dataclass
class Oven(Settings):
    """Bounds of every kind."""

    heat: float = flag(180.0, "degrees", low=50, high=300)
    fan: float = flag(0.5, "speed", above=0, below=1)
    racks: tuple[int, int] = flag((1, 2), "which", low=1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--heat 49.9", "--heat must be between 50 and 300 (got 49.9)"),
        ("--heat 300.1", "--heat must be between 50 and 300 (got 300.1)"),
        ("--heat -1e1", "--heat must be between 50 and 300 (got -10.0)"),
        ("--heat nan", "--heat must be a finite number (got nan)"),
        ("--heat -inf", "--heat must be a finite number (got -inf)"),
        ("--fan 0", "--fan must be above 0 and below 1 (got 0.0)"),
        ("--fan 1", "--fan must be above 0 and below 1 (got 1.0)"),
        ("--racks 1 0", "--racks must be at least 1 (got 0)"),
    ],
)
def test_bounds_are_part_of_the_flag(argv: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Oven, "oven", argv.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"oven: {message} (see oven --help)\n"


def test_bounds_are_inclusive_and_shown_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Oven, "oven", ["--heat", "50"]).heat == 50.0
    assert parse(Oven, "oven", ["--heat", "300", "--racks", "1", "1"]) == Oven(300.0, racks=(1, 1))
    with pytest.raises(SystemExit):
        parse(Oven, "oven", ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "degrees (default: 180.0; between 50 and 300)" in shown
    assert "speed (default: 0.5; above 0 and below 1)" in shown
    assert "which (default: 1 2)" in shown
