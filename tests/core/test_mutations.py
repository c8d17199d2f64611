"""The bugs that `make mutants` plants are the bugs that it says; every source of the core has tests."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="cosmic-ray is not installed (pip install 'il2vseg[mutants]')")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import mutants  # noqa: E402
import mutations  # noqa: E402


def every(operator: mutations.Operator, code: str) -> list[str]:
    """The code with each change of an operator."""
    found = []
    while (changed := mutations.mutate_code(code, operator, len(found))) is not None:
        found.append(changed)
    return found


@pytest.mark.parametrize(
    ("operator", "code", "expected"),
    [
        (mutations.ScaleNumber(), "lr = 1e-4", ["lr = 0.0002", "lr = 5e-05"]),
        (mutations.ScaleNumber(), "n = 10", []),
        (mutations.SwapArguments(), "fuse(a, b, c)", ["fuse( b,a, c)"]),
        (mutations.SwapArguments(), "f(a, key=b)", []),
        (mutations.SwapArguments(), "np.minimum(a, b)", []),
        (mutations.DropCall(), "y = f(x).detach() + 1", ["y = f(x) + 1"]),
        (mutations.DropCall(), "y = x.read()", []),
        (mutations.DropStatement(), "x += 1\n", ["pass\n"]),
        (mutations.DropStatement(), "f.close()\n", ["pass\n"]),
        (mutations.DropStatement(), "x = 1\n", []),
    ],
)
def test_the_changes_are_those_that_are_meant(
    operator: mutations.Operator, code: str, expected: list[str]
) -> None:
    assert every(operator, code) == expected


def test_types_decorators_and_messages_are_left_alone() -> None:
    code = '@a(1 + 2)\ndef f(x: int | None = 3) -> int | str:\n    raise ValueError("a" + "b")\n'
    assert {start for start in mutations.bugs("f.py", code)} == {(2, 22)}


def test_a_sample_is_the_same_for_a_seed_and_all_of_it_compiles() -> None:
    path = "il2vseg/models/guided.py"
    sources = {path: (ROOT / path).read_text()}
    first, again, other = (mutations.sample(sources, 10, seed) for seed in (0, 0, 1))
    assert [m.code for m in first] == [m.code for m in again] != [m.code for m in other]
    assert len({m.code for m in first}) == 10
    assert all(m.diff(sources[path]) for m in first)


def test_the_core_is_sampled_and_has_tests() -> None:
    for pattern in mutants.CORE:
        assert list(ROOT.glob(pattern)), pattern
        for file in ROOT.glob(pattern):
            assert mutants.tests_of(str(file.relative_to(ROOT))), file
