"""`il2vseg VERB`: every command under one name."""

import subprocess
import sys
import time
from importlib import import_module

import pytest

from il2vseg import __version__
from il2vseg.__main__ import VERBS, main


def test_the_verbs_are_the_commands() -> None:
    assert set(VERBS) == {
        "train", "evaluate", "name", "distill", "export", "run", "label", "annotate", "experiment", "demo",
        "bench", "studio",
    }  # fmt: skip


def test_the_list_of_verbs_answers_at_once_and_loads_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from il2vseg.__main__ import main\n"
        "assert main(['--help']) == 0\n"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2.0  # 0.1 s on an idle machine
    *shown, loaded = done.stdout.splitlines()
    assert not {"numpy", "cv2", "torch", "yaml"} & set(loaded.split())
    for verb in VERBS:
        assert any(line.startswith(f"  {verb} ") for line in shown)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_runs_its_command_under_its_own_name(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: il2vseg {verb} ")
    with pytest.raises(SystemExit) as left:
        main([verb, "--no-such-flag"])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"il2vseg {verb}: ")
    assert error.count("\n") == 1


def test_an_exit_code_and_a_message_come_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--source", "/nowhere.mp4"]) == 2
    assert "il2vseg run: /nowhere.mp4: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tran"], "unknown verb 'tran'; did you mean train"),
        (["lable"], "did you mean label"),
        (["xyzzy"], "known: train, evaluate"),
        (["--no-such-flag"], "unknown verb '--no-such-flag'"),
    ],
)
def test_an_unknown_verb_is_one_line_and_exit_code_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_nothing_at_all_lists_the_verbs_and_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: il2vseg VERB" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"il2vseg {__version__}\n"


def test_the_old_names_stay() -> None:
    for module, _ in VERBS.values():
        assert callable(import_module(module).main)
