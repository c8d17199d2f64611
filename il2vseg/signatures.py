"""Keyword arguments that equal the flags of a command, for people and for their editors.

The functions of `il2vseg` take what the dataclass of their command declares. `signature` shows that in
notebooks; `python -m il2vseg.signatures` (`make signatures`) writes it to il2vseg/flags.pyi, the types that
editors complete and type checkers check.
"""

import dataclasses
import inspect
import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

COMMANDS = {
    "train": ("il2vseg.train", "TrainConfig"),
    "evaluate": ("il2vseg.evaluate", "EvaluateConfig"),
    "distill": ("il2vseg.distill", "DistillConfig"),
    "export": ("il2vseg.export.cli", "ExportConfig"),
    "name": ("il2vseg.export.tools.naming", "NameConfig"),
}
"""Home and configuration of the commands that are functions, too."""

UNUSED = frozenset({"config", "print_config"})
"""Flags that make no sense in a call."""

STUB = Path(__file__).parent / "flags.pyi"


def settings_of(command: str) -> type[Any]:
    """The dataclass of a command's flags."""
    module, name = COMMANDS[command]
    cls: type[Any] = getattr(import_module(module), name)
    return cls


def fields_of(command: str) -> list[tuple[dataclasses.Field[Any], Any]]:
    """The flags of a command that can be keyword arguments, with their types."""
    cls = settings_of(command)
    hints = get_type_hints(cls)
    return [(f, hints[f.name]) for f in dataclasses.fields(cls) if f.name not in UNUSED]


def signature(command: str) -> inspect.Signature:
    """What a command's function takes, as `help` and notebooks show it."""
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=kind,
        )
        for field, kind in fields_of(command)
    ]
    return inspect.Signature(parameters)


def described(command: str) -> str:
    """The keyword arguments of a command, one per line, in the words of its --help."""
    return "\n".join(f"    {field.name}: {field.metadata['help']}" for field, _ in fields_of(command))


def annotation(kind: Any) -> str:
    """A type as source code, widened to what a call may pass: text for a path, any sequence for a tuple."""
    if get_origin(kind) in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(annotation(k) for k in get_args(kind)))
    if get_origin(kind) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(kind)))}]"
    if get_origin(kind) is tuple:
        return f"Sequence[{annotation(get_args(kind)[0])}]"
    return {Path: "str | Path", type(None): "None"}.get(kind) or str(kind.__name__)


def stub() -> str:
    """The text of flags.pyi."""
    lines = [
        "# Written by `make signatures` from the flags of the commands: not to be edited.",
        "from collections.abc import Sequence",
        "from pathlib import Path",
        "from typing import Literal, Required, TypedDict",
    ]
    for command in COMMANDS:
        lines += ["", f"class {command.capitalize()}Flags(TypedDict, total=False):"]
        for field, kind in fields_of(command):
            text = annotation(kind)
            if field.default is dataclasses.MISSING:
                text = f"Required[{text}]"
            lines.append(f"    {field.name}: {text}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
    print(STUB, file=sys.stderr)
