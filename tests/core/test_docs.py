"""Commands in the documentation exist, with every flag that they are shown with; links lead somewhere."""

import contextlib
import importlib
import io
import re
import shlex
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from textwrap import indent
from types import SimpleNamespace
from typing import Any

import pytest

from il2vseg import demo
from il2vseg.__main__ import VERBS
from il2vseg.base.command import parse
from tests.core.test_flags import COMMANDS

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    file for folder in ("", "docs/", "runtime/bundled/*/") for file in sorted(ROOT.glob(f"{folder}*.md"))
]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def code(page: Path) -> str:
    """The code of a page, without its blocks of Python, continued lines joined."""
    text = re.sub(r"^```python.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    # A block without a language is shell: the model cards have such.
    text = re.sub(r"^```\n(.*?)^```", lambda m: indent(m[1], "    "), text, flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return "\n".join(lines).replace("\\\n", " ")


def commands(page: Path) -> list[tuple[str, ...]]:
    """Every call of ours in a page's code: module and arguments."""
    found = []
    for line in code(page).splitlines():
        words = shlex.split(line, comments=True)
        end = next((i for i, word in enumerate(words) if word in ("|", "&&", ";")), len(words))
        if words and words[0] in SCRIPTS:
            found.append((SCRIPTS[words[0]].partition(":")[0], *words[1:end]))
        elif words[:2] == ["python", "-m"] and words[2].startswith("il2vseg."):
            found.append((words[2], *words[3:end]))
    return found


def verb(module: str, arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The module and arguments of `il2vseg VERB ...`."""
    return (VERBS[arguments[0]][0], arguments[1:]) if module == "il2vseg.__main__" else (module, arguments)


def test_the_commands_of_the_readme_parse() -> None:
    shown = [verb(module, arguments) for module, *arguments in commands(ROOT / "README.md")]
    assert {"il2vseg.train", "il2vseg.export.cli", "il2vseg.runtime.cli"} <= {module for module, _ in shown}
    for module, arguments in shown:
        settings = getattr(importlib.import_module(module), COMMANDS[module])
        parse(settings, module, list(arguments))


def test_the_demo_shows_commands_that_parse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(words: list[str], check: bool) -> SimpleNamespace:
        ran.append(words)
        (tmp_path / "evaluation").mkdir(exist_ok=True)
        (tmp_path / "evaluation" / "scores.json").write_text('{"accuracy": 1, "miou": 2, "images": 3}')
        return SimpleNamespace(returncode=0)

    monkeypatch.delenv("IL2VSEG_DATA", raising=False)
    monkeypatch.setattr(demo, "CLIP_FRAMES", 2)
    monkeypatch.setattr(demo.subprocess, "run", run)
    assert demo.main(["--out", str(tmp_path)]) == 0
    shown = [shlex.split(line[2:]) for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert shown == [["il2vseg", *words[3:]] for words in ran]
    for words in ran:
        module, arguments = verb("il2vseg.__main__", words[3:])
        parse(getattr(importlib.import_module(module), COMMANDS[module]), module, list(arguments))


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from il2vseg.data.synthetic import write_clip

    (cell,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "river.mp4", 2, seed=5, size=(180, 320))
    import cv2

    cv2.imwrite("river.jpg", cv2.VideoCapture("river.mp4").read()[1])
    names: dict[str, Any] = {}
    exec(cell, names)
    assert set(names["result"].fractions) == {"water", "sky", "obstacle"}
    assert (tmp_path / "overlay.png").is_file()


def test_the_first_screen_has_a_picture_that_loads_fast() -> None:
    first = (ROOT / "README.md").read_text()[:700]
    (picture,) = re.findall(r"!\[[^\]]+\]\((docs/[^)]+)\)", first)
    assert (ROOT / picture).stat().st_size < 300_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_speaks_of_a_private_layout(page: Path) -> None:
    assert "shared/data" not in page.read_text()


def test_the_pages_of_architecture_and_glossary_name_files_that_exist() -> None:
    for page in ("architecture.md", "glossary.md", "testing.md"):
        for name in re.findall(r"`([\w/*.]+(?:/|\.py))`", (ROOT / "docs" / page).read_text()):
            places = (ROOT, ROOT / "il2vseg", ROOT / "runtime", ROOT / "export")
            assert any(list(place.glob(name.rstrip("/"))) for place in places), f"{page}: {name}"


@cache
def flags(module: str, *subcommand: str) -> set[str]:
    """The flags that a command's help names."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(module).main([*subcommand, "--help"])
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_flags_that_they_are_shown_with(page: Path) -> None:
    for module, *arguments in commands(page):
        subcommand = arguments[:1] if arguments and not arguments[0].startswith("-") else []
        shown = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert shown <= flags(module, *subcommand), f"{module} {' '.join(arguments)}"


def test_commands_are_found() -> None:
    assert ("il2vseg.__main__", "export", "--trt") in [c[:3] for page in PAGES for c in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert "://" in target or file.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
            assert heading in anchors, f"{page.name}: {target}"


def test_extras_that_are_named_exist() -> None:
    files = [*PAGES, *sorted((ROOT / "deploy").rglob("*"))]
    text = "".join(f.read_text() for f in files if f.is_file())
    named = {e for group in re.findall(r"(?:il2vseg|/src)\[([\w,]+)\]", text) for e in group.split(",")}
    assert named
    assert named <= EXTRAS
