"""Several sources at once: one backend for all, one call where there is a batch, outputs of their own."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.images import read_labels
from il2vseg.runtime.backends.shared import SharedBackend
from il2vseg.runtime.cli import main
from il2vseg.runtime.config import RunConfig, streams
from il2vseg.runtime.engine import Backend


class Echo:
    """Labels a frame with its own first value; knows how many frames each call had."""

    provider = "echo"

    def __init__(self, batch: int, fails: int = 0) -> None:
        self.batch = batch
        self.fails = fails
        self.calls: list[int] = []
        self.closed = 0
        self._inside = threading.Lock()

    def __call__(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        assert self._inside.acquire(blocking=False), "two calls at once"
        self.calls.append(len(frames))
        self._inside.release()
        if self.fails:
            self.fails -= 1
            raise RuntimeError("out of memory")
        return frames[..., 0], np.ones((len(frames), 1, 1, 1), np.float32)

    def close(self) -> None:
        self.closed += 1


def frame(value: int) -> NDArray[np.uint8]:
    return np.full((1, 4, 4, 3), value, np.uint8)


def call_all(backend: Backend, users: int, rounds: int) -> None:
    def stream(user: int) -> None:
        for i in range(rounds):
            labels, scores = backend(frame(10 * user + i))
            assert labels.shape == (1, 4, 4)
            assert (labels == 10 * user + i).all()
            assert scores.shape == (1, 1, 1, 1)

    with ThreadPoolExecutor(users) as pool:
        for future in [pool.submit(stream, user) for user in range(users)]:
            future.result(10)


@pytest.mark.parametrize(("batch", "users"), [(1, 3), (2, 3), (4, 3), (8, 1)])
def test_everyone_gets_the_answer_to_the_own_frame(batch: int, users: int) -> None:
    echo = Echo(batch)
    call_all(SharedBackend(lambda: echo, users), users, 10)
    assert sum(echo.calls) == 10 * users
    assert max(echo.calls) <= min(batch, users)


def test_streams_fall_in_step_and_share_calls() -> None:
    echo = Echo(3)
    call_all(SharedBackend(lambda: echo, 3, patience_s=10), 3, 5)
    assert echo.calls == [3] * 5


def test_a_backend_that_raised_is_loaded_again() -> None:
    loaded = [Echo(1, fails=1), Echo(1)]
    made = iter(loaded)
    backend = SharedBackend(lambda: next(made), users=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        backend(frame(1))
    assert loaded[0].closed == 1
    assert (backend(frame(2))[0] == 2).all()
    backend.close()
    assert loaded[1].closed == 0
    backend.shutdown()
    assert loaded[1].closed == 1


def test_two_sources_have_outputs_of_their_own(model: Path, clip: Path, tmp_path: Path) -> None:
    other = "synthetic:frames=5,size=120x160"
    common = ["--model", str(model), "--save-labels"]
    assert main([*common, str(tmp_path / "both"), "--source", str(clip), other]) == 0
    for number, source in enumerate((str(clip), other)):
        assert main([*common, str(tmp_path / "alone"), "--source", source]) == 0
        names = {p.name for p in (tmp_path / "both" / str(number)).iterdir()}
        assert len(names) == (12, 5)[number]
        for name in names:
            together = read_labels(tmp_path / "both" / str(number) / name)
            np.testing.assert_array_equal(together, read_labels(tmp_path / "alone" / name))


def test_a_source_that_fails_ends_the_run_before_anything_is_written(
    model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "--model",
        str(model),
        "--source",
        str(clip),
        "nowhere.mp4",
        "--jsonl",
        str(tmp_path / "o.jsonl"),
    ]
    assert main(command) == 2
    assert "nowhere.mp4" in capsys.readouterr().err


def test_outputs_are_numbered() -> None:
    config = RunConfig(
        camera=("0", "2"),
        save_video=Path("rec/%H%M.mp4"),
        save_labels=Path("labels"),
        jsonl=Path("o.jsonl"),
        mqtt="mqtt://boat/bow",
        serve="0.0.0.0:8080",
        foxglove="8765",
        disk_quota=4.0,
    )
    first, second = streams(config)
    assert (first.camera, second.camera) == (("0",), ("2",))
    assert second.save_video == Path("rec/1/%H%M.mp4")
    assert second.save_labels == Path("labels/1")
    assert first.jsonl == Path("0/o.jsonl")
    assert second.mqtt == "mqtt://boat/bow/1"
    assert (first.serve, second.serve) == ("0.0.0.0:8080", "0.0.0.0:8081")
    assert (first.foxglove, second.foxglove) == ("8765", "8766")
    assert second.disk_quota == 2.0
    assert streams(RunConfig(camera=("0",), jsonl=Path("o.jsonl")))[0].jsonl == Path("o.jsonl")


def test_standard_output_is_for_one_source() -> None:
    from il2vseg.runtime.config import check

    with pytest.raises(UserError, match="one source only"):
        check(RunConfig(source=("a.mp4", "b.mp4"), jsonl=Path("-")))
