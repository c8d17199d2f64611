"""A Signal K server may want a token."""

import logging
import stat
from pathlib import Path
from typing import Any

import pytest

from il2vseg.base.errors import UserError
from tests.waiting import eventually

from ..conftest import needs

needs("websockets", "signalk")
needs("starlette", "web")
needs("uvicorn", "web")


from il2vseg.runtime.sinks import signalk as sinks  # noqa: E402
from il2vseg.runtime.sinks import signalk_access  # noqa: E402
from il2vseg.runtime.sinks.signalk_access import read_token  # noqa: E402

from .conftest import ALARM, NEAR, Open, kinds, seen  # noqa: E402
from .server import FakeSignalK, stamp  # noqa: E402


def test_access_is_requested_granted_and_remembered(opened: Open, cache: Path, caplog: Any) -> None:
    server = FakeSignalK(secure=True)
    server.start()
    try:
        with caplog.at_level(logging.DEBUG):
            sink, events = opened(server)
            eventually(lambda: kinds(events) == ["signalk_waiting"])
            assert "grant access to 'il2vseg bow'" in events[0][1]
            (request,) = server.pending()
            assert (request["description"], request["permissions"]) == ("il2vseg bow", "readwrite")
            server.decide(request["clientId"], "approved")
            eventually(lambda: kinds(events) == ["signalk_waiting", "signalk_connected"])
        token = f"granted-to-{request['clientId']}"
        assert server.headers[-1]["authorization"] == f"Bearer {token}"
        assert token not in caplog.text + str(events)
        (file,) = cache.iterdir()
        assert token in file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        sink.close()
        _, again = opened(server)
        eventually(lambda: kinds(again) == ["signalk_connected"])
        assert not server.pending()
        server.tokens.clear()  # its owner thinks better of it
        server.kill()
        server.start()
        eventually(lambda: [r["clientId"] for r in server.pending()] == [request["clientId"]])
        eventually(lambda: again[-1][0] == "signalk_waiting")
    finally:
        server.kill()


def test_a_request_outlives_a_restart_on_either_side(opened: Open) -> None:
    server = FakeSignalK(secure=True)
    server.start()
    try:
        first, events = opened(server)
        eventually(lambda: events)
        first.close()
        _, events = opened(server)
        eventually(lambda: kinds(events) == ["signalk_waiting"])
        assert len(server.pending()) == 1
        server.kill()
        server.start()
        eventually(server.pending)
        server.decide(server.pending()[0]["clientId"], "approved")
        eventually(lambda: kinds(events)[-1:] == ["signalk_connected"])
    finally:
        server.kill()


def test_who_is_denied_asks_no_more(opened: Open) -> None:
    server = FakeSignalK(secure=True)
    server.start()
    try:
        sink, events = opened(server)
        eventually(server.pending)
        server.decide(server.pending()[0]["clientId"], "denied")
        eventually(lambda: kinds(events)[-1:] == ["signalk_lost"])
        assert "denied" in events[-1][1]
        sink._thread.join(2)
        assert not server.pending()
        sink.write(seen(NEAR, alarm=True))
    finally:
        server.kill()


def test_a_given_token_is_used_and_none_is_asked_for(opened: Open, cache: Path) -> None:
    server = FakeSignalK(secure=True)
    server.tokens.add("given")
    server.start()
    try:
        _, events = opened(server, token="given")
        eventually(lambda: kinds(events) == ["signalk_connected"])
        _, events = opened(server, token="wrong")
        eventually(lambda: kinds(events) == ["signalk_lost"])
        assert "does not accept the token" in events[0][1]
        assert "wrong" not in events[0][1]
        assert not server.pending()
        assert not cache.exists()
    finally:
        server.kill()


def test_a_server_that_ignores_us_is_no_connection(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server takes the messages of a reader and forgets them, without a word."""
    monkeypatch.setattr(sinks, "ANSWER_S", 0.3)
    server = FakeSignalK(ignoring=True)
    server.start()
    server._values[ALARM] = {"state": "normal"}, stamp()  # of an earlier day
    try:
        _, events = opened(server)
        eventually(lambda: events)
        assert kinds(events) == ["signalk_lost"]
        assert "read/write" in events[0][1]
    finally:
        server.kill()


def test_the_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IL2VSEG_SIGNALK_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("IL2VSEG_SIGNALK_TOKEN", " abc\n")
    assert read_token(None) == "abc"
    (tmp_path / "token").write_text("def\n")
    assert read_token(tmp_path / "token") == "def"
    (tmp_path / "token").write_text("two tokens")
    with pytest.raises(UserError, match="one token"):
        read_token(tmp_path / "token")
    with pytest.raises(UserError, match="cannot be read"):
        read_token(tmp_path / "gone")


def test_a_memory_that_cannot_be_written_lasts_for_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    access = signalk_access.Access("http://127.0.0.1:1", "x", tmp_path / "file" / "m.json")
    access._remember(token="t")
    assert access.token() == "t"
