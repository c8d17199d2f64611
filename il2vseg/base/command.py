"""Command lines from dataclasses: the fields are the flags, their defaults the defaults.

A field's help is `flag(default, "help")`. Supported types: str, int, float, bool, Path, Literal and tuples
of one of them (`tuple[int, int]`, or `tuple[str, ...]` for one or more,
one of them may stand alone in YAML), each also `| None`; `int | Literal["auto"]` and the like. A
configuration file (`--config FILE.yaml`) sets defaults; flags win.
"""

import argparse
import dataclasses
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from il2vseg import __version__
from il2vseg.base.errors import UserError
from il2vseg.base.redact import hide_arguments

T = TypeVar("T")


class _OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage block in front."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def flag(default: Any, help: str, **metadata: Any) -> Any:
    """Declare a dataclass field with help text: `steps: int = flag(600, "optimisation steps")`.

    `positional=True` makes it a required argument without a flag in front; its default is then MISSING.
    """
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


def _unwrap_optional(kind: Any) -> tuple[Any, bool]:
    """Split `X | None` into X and whether None is allowed."""
    if get_origin(kind) in (Union, types.UnionType):
        inner = [a for a in get_args(kind) if a is not type(None)]
        if len(inner) == 1:
            return inner[0], True
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
    name = "--" + field.name.replace("_", "-")
    options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
    options["help"] = (field.metadata.get("help", "") + _shown_default(field.default)).replace("%", "%%")
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


def _shown_default(default: Any) -> str:
    if default is None or default is dataclasses.MISSING or isinstance(default, bool):
        return ""
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f" (default: {shown})"


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
    accepted = {
        bool: (bool,),
        int: (int,),
        # YAML reads 1e-4, without a point, as text.
        float: (int, float, str),
        str: (str, int, float),
        Path: (str, Path),
    }[kind]
    if isinstance(value, accepted) and isinstance(value, bool) == (kind is bool):
        with suppress(ValueError):
            return kind(value)
    raise ValueError("a path" if kind is Path else f"a value of type {kind.__name__}")


def _check(cls: type[Any], values: dict[str, Any], source: Path) -> dict[str, Any]:
    """Convert values read from YAML to the field types; UserError on an unknown key or a wrong type."""
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise UserError(f"{source}: unknown setting {key!r}; known: {', '.join(known)}")
        try:
            out[name] = _convert(hints[name], value)
        except ValueError as error:
            raise UserError(f"{source}: {key} needs {error}, not {value!r}") from None
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
    flags = vars(parser.parse_args(argv))
    flags = {k: tuple(v) if isinstance(v, list) else v for k, v in flags.items() if v is not None}
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
