"""The packages depend on each other in one direction; commands answer before they load what is heavy."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {"il2vseg": ROOT / "il2vseg", **{f"il2vseg.{n}": ROOT / n for n in ("export", "calib", "runtime")}}

FLOOR = ("il2vseg", "il2vseg.base")
"""What every layer may use: the version, and modules without heavy imports."""

APPLICATIONS = {
    "il2vseg",
    "il2vseg.api",
    "il2vseg.signatures",
    "il2vseg.demo",
    "il2vseg.bench",
    "il2vseg.label",
}
"""The public interface and commands that put the layers together (label runs the runtime's engine over an
archive of data); nothing imports them, but for the version from the package itself."""

STUDIO = "il2vseg.studio"
"""An application of several modules: the page that runs the other commands."""

EXCEPTIONS = {
    # An archive is labelled by the runtime's engine.
    ("il2vseg.labelling.worker", "il2vseg.runtime.engine"),
    ("il2vseg.labelling.worker", "il2vseg.runtime.manifest"),
    ("il2vseg.labelling.worker", "il2vseg.runtime.result"),
    ("il2vseg.labelling.worker", "il2vseg.runtime.backends.providers"),
    # The scene renderer is NumPy and OpenCV; the runtime streams it as `synthetic:`.
    ("il2vseg.runtime.sources.synthetic", "il2vseg.data.synthetic"),
    # An export is scored through the code that runs it on a device.
    ("il2vseg.evaluation.exported", "il2vseg.runtime.engine"),
    ("il2vseg.evaluation.exported", "il2vseg.runtime.manifest"),
    ("il2vseg.evaluation.exported", "il2vseg.runtime.backends.providers"),
    # What remains of false alarms over time is counted by following them as a device does.
    ("il2vseg.evaluation.following", "il2vseg.runtime.marine.scene"),
    ("il2vseg.evaluation.following", "il2vseg.runtime.marine.tracks"),
    # What stands in the danger zone is measured as on board.
    ("il2vseg.evaluation.danger", "il2vseg.runtime.marine.scene"),
    ("il2vseg.evaluation.danger", "il2vseg.runtime.marine.water_plane"),
    # A device is checked with the providers that it has.
    ("il2vseg.export.device", "il2vseg.runtime.backends.providers"),
    # An engine is built for the GPU that is there, and checked by running it as the runtime does.
    ("il2vseg.export.engine", "il2vseg.runtime.backends.cuda"),
    ("il2vseg.export.engine", "il2vseg.runtime.backends.tensorrt"),
    # An export proposes names by running as it does on a device.
    ("il2vseg.export.tools.proposals", "il2vseg.runtime.backends.providers"),
    # `il2vseg name --serve` opens the studio at its third step.
    *(("il2vseg.export.tools.judging", f"{STUDIO}.{name}") for name in ("cli", "project", "steps")),
}

HEAVY = (
    "torch", "timm", "scipy", "matplotlib", "onnx", "onnxruntime", "tensorboard", "rich", "safetensors",
    "accelerate", "ray", "pyarrow",
)  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the project: its name and file."""
    for package, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), file


MODULES = dict(modules())


def imports(file: Path) -> set[str]:
    """Our modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.partition(".")[0] == "il2vseg"}


def layer(module: str) -> str:
    if module in FLOOR or module.startswith("il2vseg.base."):
        return "floor"
    part = module.split(".")[1]
    return part if part in ("export", "calib", "runtime") else "core"


ALLOWED = {
    "floor": {"floor"},
    "core": {"core", "floor"},
    "runtime": {"runtime", "floor"},
    "calib": {"calib", "core", "floor"},
    "export": {"export", "calib", "core", "floor"},
}


def is_application(module: str) -> bool:
    return module in APPLICATIONS or module == STUDIO or module.startswith(f"{STUDIO}.")


@pytest.mark.parametrize("module", [m for m in MODULES if not is_application(m)])
def test_dependencies_point_one_way(module: str) -> None:
    own = layer(module)
    for imported in imports(MODULES[module]):
        if own in ("export", "calib") and imported.startswith(
            ("il2vseg.runtime.manifest", "il2vseg.runtime.engine", "il2vseg.runtime.catalog")
        ):
            continue
        if (module, imported) in EXCEPTIONS:
            continue
        assert imported == "il2vseg" or not is_application(imported), (
            f"{module} imports the application {imported}"
        )
        assert layer(imported) in ALLOWED[own], f"{module} ({own}) imports {imported} ({layer(imported)})"


def test_installed_packages_are_those_that_exist() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == {m for m, file in MODULES.items() if file.name == "__init__.py"}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_runtime_never_imports_torch() -> None:
    names = [m for m in MODULES if layer(m) in ("runtime", "floor") and not m.endswith("__main__")]
    loaded = run(
        f"import sys, importlib\nfor m in {names}: importlib.import_module(m)\nprint(*sys.modules)"
    ).split()
    assert set(names) <= set(loaded)
    assert not {"torch", "timm", "scipy"} & set(loaded)


BESIDE = {
    str(file.relative_to(ROOT)): file
    for folder in ("tests", "bench", "examples")
    for file in (ROOT / folder).rglob("*.py")
}
"""Python files that are not in the package."""


@pytest.mark.parametrize("name", [*MODULES, *BESIDE])
def test_files_and_functions_stay_short(name: str) -> None:
    source = (MODULES | BESIDE)[name].read_text()
    assert len(source.splitlines()) <= 400
    functions = [
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= 60]
    assert not long, f"over 60 lines: {', '.join(long)}"


def commands() -> list[str]:
    """Modules with a top-level `main(argv)`: what `python -m` and the console scripts run."""
    return [
        module
        for module, file in MODULES.items()
        if any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in ast.parse(file.read_text()).body)
    ]


@pytest.mark.parametrize("module", commands())
def test_help_answers_without_heavy_imports(module: str) -> None:
    code = f"""
import sys
from {module} import main
try:
    code = main(["--help"])
except SystemExit as exit:
    code = exit.code
print("EXIT", code, *(m for m in {HEAVY} if m in sys.modules))
"""
    output = run(code)
    assert "usage:" in output
    assert output.splitlines()[-1] == "EXIT 0"


@pytest.mark.parametrize("module", commands())
def test_unknown_flag_is_one_line_and_exit_code_2(module: str) -> None:
    code = f"from {module} import main; raise SystemExit(main(['--no-such-flag']))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--no-such-flag" in done.stderr
    assert done.stderr.count("\n") == 1


def test_console_scripts_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert function == "main"
        assert module in commands()
