"""Live sources on fake connections: failures at will, no network."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.runtime.sources import SourceOptions, live, open_source
from il2vseg.runtime.sources.capture import CaptureOptions, ConnectionFailed
from il2vseg.runtime.sources.live import LiveSource
from tests.waiting import eventually


class Fake:
    """A connection that plays a script: numbers are frames, "end" ends it, "hang" hangs, "same" freezes."""

    fps = 30.0
    open = 0

    def __init__(self, script: list[Any], release: threading.Event) -> None:
        self._script = iter(script)
        self._release = release
        self._stamp = 0.0
        type(self).open += 1

    def grab(self) -> tuple[Frame, float | None] | None:
        step = next(self._script, "end")
        if step == "end":
            return None
        if step == "hang":
            self._release.wait(30)
            return None
        if step == "same":
            time.sleep(0.002)
            self._script = iter(["same"] * 100_000)
        else:
            time.sleep(0.005)
            self._stamp += 1
        return np.full((2, 2, 3), step if isinstance(step, int) else 0, np.uint8), self._stamp

    def close(self) -> None:
        type(self).open -= 1


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()
    wait_for_readers()


def wait_for_readers() -> None:
    """Readers that were given up close their connections by themselves, a moment later."""
    eventually(lambda: all(t.name != "reader" for t in threading.enumerate()))


BACKOFF = (live.INITIAL_BACKOFF_S, live.MAX_BACKOFF_S, live.KEY_FRAME_S, live.CONNECT_S, live._GRACE_S)
"""What holds outside of the tests."""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "INITIAL_BACKOFF_S", 0.01)
    monkeypatch.setattr(live, "MAX_BACKOFF_S", 0.05)
    monkeypatch.setattr(live, "CONNECT_S", 0.1)
    monkeypatch.setattr(live, "_GRACE_S", 0.1)
    monkeypatch.setattr(Fake, "open", 0)


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def __call__(self, kind: str, message: str, **data: Any) -> None:
        self.events.append((kind, message))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def connecting(
    release: threading.Event, *scripts: list[Any] | Exception
) -> tuple[Callable[[], Fake], list[int]]:
    """A function that opens one connection after another, and how often it was called."""
    calls: list[int] = []
    remaining = iter(scripts)

    def connect() -> Fake:
        calls.append(1)
        script = next(remaining, ConnectionFailed("refused"))
        if isinstance(script, Exception):
            raise script
        return Fake(script, release)

    return connect, calls


def take(source: LiveSource, wanted: int) -> list[int]:
    """Read until a frame of the value `wanted` comes; return the values."""
    values = []
    while not values or values[-1] != wanted:
        captured = source.read()
        assert captured is not None
        values.append(int(captured.frame[0, 0, 0]))
        assert values[-1] > 0, "a frame that was there before"
    return values


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("end", "the stream ended"),
        ("hang", "no new frame for 0.3 s or more"),
        ("same", "no new frame for 0.3 s or more"),
    ],
)
def test_a_connection_that_dies_or_freezes_is_made_again(
    release: threading.Event, failure: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "CONNECT_S", 5.0)  # of a busy machine
    connect, _ = connecting(release, [1, 2, 3, failure], ConnectionFailed("refused"), [7, 8, 9, "hang"])
    log = Log()
    source = LiveSource(connect, "cam", log, freeze_s=0.3)
    assert source.live
    assert take(source, 9)[-1] == 9
    assert log.kinds() == ["source_lost", "source_back"]
    assert log.events[0][1] == f"cam: {reason}; trying again"
    release.set()
    source.close()
    assert source.read() is None


def test_attempts_come_ever_more_slowly(release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BACKOFF == (0.25, 4.0, 30.0, 10.0, 0.5)
    for name, value in zip(("INITIAL_BACKOFF_S", "MAX_BACKOFF_S"), BACKOFF, strict=False):
        monkeypatch.setattr(live, name, value)
    pauses: list[float] = []
    monkeypatch.setattr(LiveSource, "_pause", lambda source, seconds: pauses.append(seconds))
    refused = ConnectionFailed("refused")
    connect, _ = connecting(release, *[refused] * 7, [5], refused, [6, "hang"])
    source = LiveSource(connect, "cam", Log(), freeze_s=0.1, wait=True)
    assert take(source, 6)[-1] == 6
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 0.25, 0.5]  # from the start after a success
    release.set()
    source.close()


def test_the_next_frame_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CONNECT_S", 10.0)
    monkeypatch.setattr(live, "_GRACE_S", BACKOFF[4])
    reader = live._Reader.__new__(live._Reader)
    reader.frames, reader.begun, reader.alive = 0, 100.0, 100.0
    assert reader.deadline(5.0) == 110.5  # ten seconds to connect, and half a second to tell why not
    assert reader.deadline(12.0) == 112.5
    reader.alive = 120.0
    assert reader.deadline(5.0) == 125.0  # it lives
    reader.alive = 128.0
    assert reader.deadline(5.0) == 130.0  # but half a minute without a key frame is enough
    reader.frames = 1
    assert reader.deadline(5.0) == 133.0


def test_indices_go_on_after_a_reconnection(release: threading.Event) -> None:
    connect, _ = connecting(release, [1, 2], [3, 4, "hang"])
    source = LiveSource(connect, "cam", Log(), freeze_s=0.1)
    indices = []
    while not indices or indices[-1] < 3:
        captured = source.read()
        assert captured is not None
        indices.append(captured.index)
    assert indices == sorted(set(indices))
    release.set()
    source.close()


def test_only_the_newest_frame_is_kept(release: threading.Event) -> None:
    connect, _ = connecting(release, [*range(1, 21), "hang"])
    source = LiveSource(connect, "cam", Log(), freeze_s=1)
    eventually(lambda: source._reader.frames == 20)
    captured = source.read()
    assert captured is not None
    assert captured.index == 19
    release.set()
    source.close()


def test_nothing_there_at_the_start_is_an_error(release: threading.Event) -> None:
    with pytest.raises(UserError, match="cam: refused; check it, or wait for it with --wait-for-source"):
        LiveSource(connecting(release)[0], "cam", Log())
    with pytest.raises(UserError, match="no frame came"):
        LiveSource(connecting(release, ["hang"])[0], "cam", Log(), freeze_s=0.1)


class Lively:
    """A connection that lives and brings no frame, until it is closed."""

    fps = 30.0

    def __init__(self) -> None:
        self.closed = False

    def grab(self) -> tuple[Frame | None, float | None]:
        time.sleep(0.002)
        return None, None

    def close(self) -> None:
        self.closed = True


def test_a_source_that_never_shows_anything_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEY_FRAME_S", 0.25)
    connection = Lively()
    with pytest.raises(UserError, match="cam: no frame came"):
        LiveSource(lambda: connection, "cam", Log(), freeze_s=0.05)
    eventually(lambda: connection.closed, 5)
    wait_for_readers()


def test_frames_without_a_time_stamp_are_all_new() -> None:
    frames = iter([np.full((2, 2, 3), value, np.uint8) for value in (1, 2, 3)])

    class Unstamped(Lively):
        def grab(self) -> Any:
            frame = next(frames, None)
            return None if frame is None else (frame, None)

    reader = live._Reader(Unstamped, threading.Condition())
    reader.thread.join(5)
    assert (reader.frames, reader.ended, reader.mistake, reader.fps) == (3, "the stream ended", None, 30.0)


@pytest.mark.parametrize(
    ("error", "mistake"), [(ConnectionFailed("refused"), False), (UserError("no codec"), True)]
)
def test_a_reader_keeps_the_reason_and_who_can_mend_it(error: Exception, mistake: bool) -> None:
    def connect() -> Lively:
        raise error

    reader = live._Reader(connect, threading.Condition())
    reader.thread.join(5)
    assert reader.ended == str(error)
    assert reader.mistake is (error if mistake else None)


def test_a_frame_after_a_loss_tells_how_long_it_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: 107.12345))
    monkeypatch.setattr(live, "INITIAL_BACKOFF_S", 0.25)
    told: list[tuple[str, str, dict[str, Any]]] = []
    source = LiveSource.__new__(LiveSource)
    source._changed, source._name = threading.Condition(), "cam"
    source._report = lambda kind, message, **data: told.append((kind, message, data))
    source._earlier, source._lost_at, source._backoff = 40, 100.0, 4.0
    frame = np.zeros((2, 2, 3), np.uint8)
    source._reader = SimpleNamespace(newest=(frame, 1.75e9, 88.5), frames=3)  # type: ignore[assignment]
    captured = source._take()
    assert captured.frame is frame
    assert (captured.index, captured.name) == (42, "frame_000042")
    assert (captured.unix, captured.clock) == (1.75e9, 88.5)
    assert told == [("source_back", "cam: back after 7.1 s", {"seconds": 7.123})]
    assert (source._last, source._lost_at, source._backoff) == (43, None, 0.25)
    source._take()
    assert len(told) == 1


def test_a_frame_has_the_time_at_which_it_came(release: threading.Event) -> None:
    before = (time.time(), time.perf_counter())
    source = LiveSource(connecting(release, [1, "hang"])[0], "cam", Log(), freeze_s=30)
    captured = source.read()
    assert captured is not None
    assert captured.unix is not None
    assert captured.clock is not None
    assert before[0] <= captured.unix <= time.time()
    assert before[1] <= captured.clock <= time.perf_counter()
    assert source.fps == 30.0
    source.interrupt()


def test_frames_of_earlier_connections_stay_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_Reader", lambda connect, changed: SimpleNamespace(frames=0))
    paused: list[float] = []
    monkeypatch.setattr(LiveSource, "_pause", lambda source, seconds: paused.append(seconds))
    log, abandoned = Log(), []
    source = LiveSource.__new__(LiveSource)
    source._changed, source._name, source._report, source._freeze_s = threading.Condition(), "cam", log, 0.5
    source._stopped, source._stuck, source._lost_at, source._backoff = False, [], None, 0.01
    source._connect, source._earlier, source._last = Lively, 40, 42
    alive = threading.current_thread()
    source._reader = SimpleNamespace(  # type: ignore[assignment]
        mistake=None, ended=None, frames=3, thread=alive, abandon=lambda: abandoned.append(1)
    )
    source._reconnect()
    # The third frame of that connection was never asked for: it is not to be taken for one of the next.
    assert (source._earlier, source._last, source._reader.frames) == (43, 43, 0)
    assert (abandoned, source._stuck, paused, source._backoff) == ([1], [alive], [0.01], 0.02)
    assert log.events == [("source_lost", "cam: no new frame for 0.5 s or more; trying again")]


def test_a_pause_is_as_long_as_it_says_and_ends_with_the_source() -> None:
    source = LiveSource.__new__(LiveSource)
    source._changed, source._stopped = threading.Condition(), False
    begun = time.monotonic()
    source._pause(0.03)
    assert time.monotonic() - begun >= 0.025
    source.interrupt()
    source._pause(30)
    assert time.monotonic() - begun < 10


def test_waiting_for_the_first_frame_can_be_asked_for(release: threading.Event) -> None:
    refused = [ConnectionFailed("refused")] * 3
    source = LiveSource(connecting(release, *refused, [5, "hang"])[0], "cam", Log(), freeze_s=0.1, wait=True)
    assert take(source, 5) == [5]
    release.set()
    source.close()


def test_a_waiting_read_can_be_interrupted(release: threading.Event) -> None:
    source = LiveSource(connecting(release, [1, "hang"])[0], "cam", Log(), freeze_s=30)
    assert source.read() is not None
    threading.Timer(0.05, source.interrupt).start()
    begun = time.monotonic()
    assert source.read() is None
    assert time.monotonic() - begun < 5


def test_readers_that_hang_for_ever_are_bounded(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, calls = connecting(release, [1, "hang"], *[["hang"]] * 50)
    source = LiveSource(connect, "cam", Log(), freeze_s=0.02)
    assert source.read() is not None
    pauses: list[float] = []

    def pause(source: LiveSource, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 20:
            source.interrupt()

    monkeypatch.setattr(LiveSource, "_pause", pause)
    assert source.read() is None
    assert len(pauses) == 20
    assert len(calls) == 4
    release.set()


def test_every_connection_is_closed_in_the_end(release: threading.Event) -> None:
    connect, _ = connecting(release, *[[1]] * 20, [9, "hang"])
    source = LiveSource(connect, "cam", Log(), freeze_s=0.2)
    take(source, 9)
    release.set()
    source.close()
    wait_for_readers()
    assert Fake.open == 0


def test_a_mistake_of_the_user_is_not_tried_again(release: threading.Event) -> None:
    with pytest.raises(UserError, match="no GStreamer"):
        LiveSource(connecting(release, UserError("no GStreamer"))[0], "cam", Log(), wait=False)


def test_passwords_do_not_show() -> None:
    with pytest.raises(UserError) as error:
        open_source("rtsp://captain:secret@127.0.0.1:9/stream", SourceOptions(freeze_s=0.2))
    assert "secret" not in str(error.value)
    assert "127.0.0.1:9" in str(error.value)


def test_the_codec_is_set_before_the_size() -> None:
    import cv2

    keys = [key for key, _ in CaptureOptions(size=(480, 640), fps=30, codec="MJPG").properties()]
    assert keys.index(cv2.CAP_PROP_FOURCC) < keys.index(cv2.CAP_PROP_FRAME_WIDTH)
    with pytest.raises(UserError, match="four letters"):
        CaptureOptions(codec="JPEG2").properties()
