"""Commands in the documentation exist, with every flag that they are shown with; links lead somewhere."""

import contextlib
import importlib
import io
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def code(page: Path) -> str:
    """The indented code of a page, continued lines joined."""
    lines = [line.strip() for line in page.read_text().splitlines() if line.startswith("    ")]
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


@cache
def flags(module: str, *subcommand: str) -> set[str]:
    """The flags that a command's help names."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(module).main([*subcommand, "--help"])
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_flags_that_they_are_shown_with(page: Path) -> None:
    for module, *arguments in commands(page):
        subcommand = arguments[:1] if arguments and not arguments[0].startswith("-") else []
        shown = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert shown <= flags(module, *subcommand), f"{module} {' '.join(arguments)}"


def test_commands_are_found() -> None:
    assert ("il2vseg.export.cli", "--trt") in [c[:2] for page in PAGES for c in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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
