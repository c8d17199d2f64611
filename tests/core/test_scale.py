"""Several processes train one model; a killed run goes on exactly."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from il2vseg import train
from il2vseg.models.checkpoint import FILE_NAME, load_tensors
from tests.waiting import eventually

LONG = ["--method", "joint", "--backbone", "tiny", "--size", "48", "64", "--limit", "6", "--steps", "130"]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache")
def test_precision_of_accelerate_launch_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [*LONG[:-1], "3", "--out", str(tmp_path / "out")]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train.main(short) == 0
    assert "mixed_precision: bf16" in (tmp_path / "out" / "config.yaml").read_text()
    folders = [p.name for p in (tmp_path / "cache" / "features").iterdir()]
    assert len(folders) == 1
    assert folders[0].endswith("-bf16")  # tokens of another precision are other tokens
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    assert train.main(short) == 2
    assert "--mixed-precision must be one of no, bf16, fp16 (got fp8)" in capsys.readouterr().err


# --- whole runs, killed and launched -----------------------------------------------------------------------


def victim(*command: str) -> "subprocess.Popen[str]":
    """Start a command, at low priority, so that whoever is to kill it in time can."""
    nice = ["nice", "-n", "10", sys.executable, *command]
    return subprocess.Popen(nice, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_steps(out: Path, steps: int, process: "subprocess.Popen[str]") -> None:
    metrics = out / "metrics.jsonl"

    def taken() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return metrics.exists() and metrics.read_bytes().count(b"\n") >= steps

    eventually(taken, 600, f"step {steps}")


def worker_ids(process: "subprocess.Popen[str]") -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


@pytest.mark.usefixtures("own_cache")
def test_sigkill_at_a_random_step_and_resuming_give_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = [*LONG[:-1], "60"]
    assert train.main([*flags, "--out", str(whole)]) == 0
    step = random.SystemRandom().randint(11, 30)
    code = "from il2vseg.learning import trainer; trainer.SAVE_EVERY = 10; "
    code += "from il2vseg import train; raise SystemExit(train.main())"
    process = victim("-c", code, *flags, "--out", str(killed))
    wait_for_steps(killed, step, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / FILE_NAME).exists()
    assert train.main([*flags, "--out", str(killed), "--resume"]) == 0
    metrics = [(folder / "metrics.jsonl").read_text() for folder in (killed, whole)]
    assert metrics[0] == metrics[1], f"killed after step {step}"
    assert (killed / FILE_NAME).read_bytes() == (whole / FILE_NAME).read_bytes(), f"killed after step {step}"


def close(a: Path, b: Path) -> None:
    """Assert that two runs took the same steps and ended with the same model, but for rounding."""
    steps = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (a, b)
    ]
    assert len(steps[0]) == len(steps[1])
    for x, y in zip(*steps, strict=True):
        assert (x.pop("stage"), x.pop("step")) == (y.pop("stage"), y.pop("step"))
        assert x == pytest.approx(y, abs=1e-4)
    tensors = [load_tensors(folder / FILE_NAME)[0] for folder in (a, b)]
    for name, value in tensors[0].items():
        torch.testing.assert_close(value, tensors[1][name], atol=1e-4, rtol=1e-4, msg=name)


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "il2vseg.train"]
# Without a GPU, --multi_gpu means several processes over gloo; --cpu would ask for MPI.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
ACCELERATE += ["--main_process_port=0", "-m", "il2vseg.train"]


@pytest.mark.parametrize("launch", [TORCHRUN, pytest.param(ACCELERATE, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("own_cache")
def test_two_processes_over_gloo_give_the_model_of_one(launch: list[str], tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    command = [sys.executable, *launch, *LONG[:-1], "12", "--out", str(two)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("trained on 6 frames") == 1  # the main process speaks, and it alone
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 12  # 6 frames and their jittered copies
    # The configuration that was saved gives the same result without a launcher.
    assert train.main(["--config", str(two / "config.yaml"), "--out", str(one)]) == 0
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    close(two, one)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_run_that_lost_a_process_goes_on_with_two_or_with_one(tmp_path: Path) -> None:
    two, one, whole = tmp_path / "two", tmp_path / "one", tmp_path / "whole"
    process = victim(*TORCHRUN, *LONG, "--out", str(two))
    wait_for_steps(two, random.SystemRandom().randint(51, 90), process)
    workers = worker_ids(process)
    os.kill(random.SystemRandom().choice(workers), signal.SIGKILL)
    process.communicate()
    assert process.returncode != 0
    assert len(workers) == 2
    shutil.copytree(two, one)
    assert subprocess.run([sys.executable, *TORCHRUN, *LONG, "--out", str(two), "--resume"]).returncode == 0
    assert train.main([*LONG, "--out", str(one), "--accumulate", "2", "--resume"]) == 0
    assert train.main([*LONG, "--out", str(whole), "--accumulate", "2"]) == 0
    close(two, whole)
    close(one, whole)
