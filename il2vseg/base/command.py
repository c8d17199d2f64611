"""Command lines from dataclasses: the fields are the flags, their defaults the defaults.

A field is `flag(default, "help", low=0, high=1)`. Supported types: str, int, float, bool, Path, Literal and
tuples of one of them (`tuple[int, int]`, or `tuple[str, ...]` for one or more, one of them may stand alone in
YAML), each also `| None`; `int | Literal["auto"]` and the like. A configuration file (`--config FILE.yaml`)
sets defaults; flags win. Types and bounds are enforced in one place (`_checked`), for flags, for YAML and for
keyword arguments of a `Settings` class alike.
"""

import argparse
import dataclasses
import math
import numbers
import os
import re
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from il2vseg import __version__
from il2vseg.base.errors import UserError
from il2vseg.base.redact import hide_arguments, scrubbed

T = TypeVar("T")

MAX_SEED = 2**32 - 1
MAX_COUNT = 10**9
"""Upper bound of numbers of frames, steps and the like."""
MAX_SIDE = 1 << 13
"""Upper bound of a frame's side, in pixels."""
MAX_THREADS = 4 * (os.cpu_count() or 1)
IGNORE_MASK_HELP = (
    "what belongs to the own vessel and is left out: a picture of the camera's shape, white there, or the "
    "corners of a polygon as shares of width and height, '0.2,1 0.4,0.7 0.8,1'; several with ; between them"
)
_SHOWN_BOUND = 10_000
"""Larger limits catch typing errors; --help does not show them."""


class _OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage block in front."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # "-1e3" and "-inf" are values too, not flags.
        self._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {scrubbed(message, sys.argv[1:])} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def flag(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    **metadata: Any,
) -> Any:
    """Declare a dataclass field: `steps: int = flag(600, "optimisation steps", low=0)`.

    NaN and infinity are never accepted.

    Args:
        low, high: smallest and largest number; of a tuple, of each of its values.
        above, below: limits that are themselves refused.
        metadata: `metavar="DIR"`; `positional=True` makes it a required argument without a flag in front, and
            its default is then MISSING.
    """
    bounds = {"low": low, "high": high, "above": above, "below": below}
    return dataclasses.field(default=default, metadata={"help": help, **bounds, **metadata})


class Settings:
    """Base of configuration dataclasses: however one is built, its values have their types and bounds.

    Text becomes a path and a list a tuple where the field is one, so that keyword arguments may be plain.

    Attributes:
        REMOVED: flags of earlier versions, and what to do without them.
    """

    REMOVED: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            try:
                value = _checked(field, hints[field.name], getattr(self, field.name))
            except ValueError as error:
                raise UserError(f"{field.name} {error}") from None
            object.__setattr__(self, field.name, value)


def _range(field: dataclasses.Field[Any]) -> str:
    """The bounds of a field in words: "between 0 and 1"; "" without any."""
    low, high, above, below = (field.metadata.get(k) for k in ("low", "high", "above", "below"))
    if low is not None and high is not None:
        return f"between {low} and {high}"
    words = [
        f"{word} {bound}"
        for word, bound in (("at least", low), ("above", above), ("at most", high), ("below", below))
        if bound is not None
    ]
    return " and ".join(words)


def _within(field: dataclasses.Field[Any], number: float) -> bool:
    low, high, above, below = (field.metadata.get(k) for k in ("low", "high", "above", "below"))
    return (
        (low is None or number >= low)
        and (high is None or number <= high)
        and (above is None or number > above)
        and (below is None or number < below)
    )


def _checked(field: dataclasses.Field[Any], kind: Any, value: Any) -> Any:
    """Convert a value to a field's type and check its bounds.

    Raises:
        ValueError: it is not of that type or out of bounds; the message goes on after the field's name.
    """
    try:
        value = _convert(kind, value)
    except ValueError as error:
        raise ValueError(f"needs {error}, not {value!r}") from None
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            raise ValueError(f"must be a finite number (got {number})")
        if not _within(field, number):
            raise ValueError(f"must be {_range(field)} (got {number})")
    return value


def _unwrap_optional(kind: Any) -> tuple[Any, bool]:
    """Split `X | None` into X and whether None is allowed."""
    if get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind):
        inner = tuple(a for a in get_args(kind) if a is not type(None))
        return (inner[0] if len(inner) == 1 else Union[inner]), True  # noqa: UP007 (a tuple of types)
    return kind, False


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union such as `int | Literal["auto"]`; () of anything else."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()


def _text_parser(kinds: tuple[Any, ...]) -> Callable[[str], Any]:
    """A parser of text into the first of `kinds` that takes it; its name is what argparse calls the value."""

    def convert(text: str) -> Any:
        for kind in kinds:
            if get_origin(kind) is not Literal:
                with suppress(ValueError):
                    return kind(text)
            elif text in get_args(kind):
                return text
        raise ValueError(text)

    names = ("|".join(get_args(k)) if get_origin(k) is Literal else k.__name__ for k in kinds)
    convert.__name__ = " or ".join(names)
    return convert


def _add_argument(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], kind: Any) -> None:
    name = "--" + field.name.rstrip("_").replace("_", "-")  # `from_` is --from
    options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
    options["help"] = (field.metadata.get("help", "") + _remark(field)).replace("%", "%%")
    kind, optional = _unwrap_optional(kind)
    if kind is bool:
        both = optional or field.default is True
        parser.add_argument(name, action=argparse.BooleanOptionalAction if both else "store_true", **options)
        return
    if get_origin(kind) is Literal:
        options |= {"choices": get_args(kind), "type": type(get_args(kind)[0])}
    elif get_origin(kind) is tuple:
        element, *rest = get_args(kind)
        options |= {"nargs": "+" if rest == [...] else 1 + len(rest), "type": element}
    elif kinds := _alternatives(kind):
        options["type"] = _text_parser(kinds)
    else:
        options["type"] = kind
    if metavar := field.metadata.get("metavar"):
        options["metavar"] = metavar
    if field.metadata.get("positional"):
        # Optional to argparse, which would complain of it before it complains of a wrong flag.
        parser.add_argument(options.pop("dest"), **options | {"nargs": "?", "default": None})
        return
    parser.add_argument(name, **options)


def _remark(field: dataclasses.Field[Any]) -> str:
    """Default and bounds, for the help text."""
    default = field.default
    parts = []
    if default is not None and default is not dataclasses.MISSING and not isinstance(default, bool):
        parts.append(
            "default: " + (" ".join(map(str, default)) if isinstance(default, tuple) else str(default))
        )
    ends = [field.metadata.get(k) for k in ("high", "below")]
    if any(end is not None and end < _SHOWN_BOUND for end in ends):
        parts.append(_range(field))
    return f" ({'; '.join(parts)})" if parts else ""


def _convert(kind: Any, value: Any) -> Any:
    """Convert a plain value to a field's type.

    Raises:
        ValueError: it is not of that type; the message says what is expected.
    """
    kind, optional = _unwrap_optional(kind)
    if value is None and optional:
        return None
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices or isinstance(value, bool):
            raise ValueError(f"one of {', '.join(map(str, choices))}")
        return value
    if get_origin(kind) is tuple:
        element, *rest = get_args(kind)
        count = None if rest == [...] else 1 + len(rest)
        if count is None and not isinstance(value, list | tuple):
            value = [value]
        if not isinstance(value, list | tuple) or not value or count not in (None, len(value)):
            raise ValueError(f"a list of {count or 'one or more'} values")
        return tuple(_convert(element, v) for v in value)
    if kinds := _alternatives(kind):
        for one in kinds:
            with suppress(ValueError):
                return _convert(one, value)
        raise ValueError(_text_parser(kinds).__name__)
    accepted: Any = {
        bool: bool,
        int: numbers.Integral,
        # YAML reads 1e-4, without a point, as text.
        float: numbers.Real | str,
        str: str | int | float | Path,
        Path: str | Path,
    }[kind]
    if isinstance(value, accepted) and isinstance(value, bool) == (kind is bool):
        with suppress(ValueError, OverflowError):
            return kind(value)
    raise ValueError("a path" if kind is Path else f"a value of type {kind.__name__}")


def _check(cls: type[Any], values: dict[str, Any], source: Path) -> dict[str, Any]:
    """Convert and check values read from YAML; UserError on an unknown key or a wrong value."""
    hints = get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise UserError(f"{source}: unknown setting {key!r}; known: {', '.join(known)}")
        try:
            out[name] = _checked(known[name], hints[name], value)
        except ValueError as error:
            raise UserError(f"{source}: {key} {error}") from None
    return out


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration dataclass as plain values that YAML and JSON can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(cls: type[T], values: dict[str, Any], source: Path) -> T:
    """Build a configuration dataclass from plain values, checking names and types.

    Raises:
        UserError: an unknown key or a value of the wrong type; `source` is named in the message.
    """
    return cls(**_check(cls, values, source))


def parse(cls: type[T], prog: str, argv: list[str] | None = None) -> T:
    """Parse command-line flags into the dataclass `cls`. Its docstring is the command's description.

    Precedence: flags, then `--config FILE.yaml` where `cls` has a `config` field, then the defaults.

    Raises:
        SystemExit: 0 for --help and --version, 2 for a wrong flag, after one line on stderr.
        UserError: the configuration file cannot be read or holds a wrong setting.
    """
    parser = _OneLineParser(prog=prog, description=cls.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"il2vseg {__version__}")
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        _add_argument(parser, field, hints[field.name])
    if argv is None:
        hide_arguments(sys.argv[1:])
    for argument in sys.argv[1:] if argv is None else argv:
        if advice := getattr(cls, "REMOVED", {}).get(argument.partition("=")[0]):
            parser.error(f"{argument.partition('=')[0]} is no longer supported: {advice}")
    given = vars(parser.parse_args(argv))
    flags: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if given.get(field.name) is not None:
            try:
                flags[field.name] = _checked(field, hints[field.name], given[field.name])
            except ValueError as error:
                parser.error(f"--{field.name.replace('_', '-')} {error}")
    values: dict[str, Any] = {}
    if flags.get("config") is not None:
        values = _check(cls, read_yaml(flags["config"]), flags["config"])
    missing = [
        f.name if f.metadata.get("positional") else "--" + f.name.replace("_", "-")
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in values | flags
    ]
    if missing:
        parser.error(f"missing {', '.join(missing)}")
    return cls(**(values | flags))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing, is not YAML, or does not hold a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a mapping of settings is expected")
    return values


def to_yaml(config: Any) -> str:
    """Return a configuration dataclass as YAML that `--config` reads back."""
    import yaml

    return str(yaml.safe_dump(to_dict(config), sort_keys=False))
