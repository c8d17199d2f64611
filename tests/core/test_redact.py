"""What of an address is shown: no part of a password, whatever the URL looks like that carries it."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from il2vseg.base.errors import CheckFailed, UserError, run_command
from il2vseg.base.redact import redacted, redacting, scrubbed

LETTERS = "QXZJ"
"""Letters of passwords, in no other part of these addresses."""

password = st.text(LETTERS + "@:/?#&=%+;,!$\\ \t'\"[]~ü", min_size=1).filter(lambda p: set(p) & set(LETTERS))
FORMS = (
    "rtsp://admin:{}@10.0.0.7:554/cam",
    "rtsp://{}@10.0.0.7:554/cam",
    "http://cam/video.cgi?user=admin&password={}",
    "http://cam/video.cgi?pwd={}&channel=1",
    "http://cam/video.cgi?loginpas={}#x",
    "http://admin@cam/?auth={}",
    "rtsp://10.0.0.7/user=admin_password={}_channel=1_stream=0.sdp",
    "rtsp://10.0.0.7/user=admin&password={}&channel=1",
    "rtsp://10.0.0.7/0/admin:{}/main",
    "rtsp://10.0.0.7/admin/{}/ch1",
    "rtmp://live.example/app/{}",
    "rtsps://10.0.0.7:7441/{}?enableSrtp",
    "srt://10.0.0.7:9000?passphrase={}&mode=caller",
    "s3://KEY:{}@bucket/2026",
    "s3://bucket/2026?secret_key={}",
    "mqtt://boat:{}@broker:1883/boat",
    "file:///clips/a.mp4?token={}",
    "rtsp:/admin:{}@10.0.0.7/cam",
    " rtsp://admin:{}@10.0.0.7/cam",
    "gst:rtspsrc location=rtsp://cam user-id=a user-pw={} ! decodebin ! appsink",
)


@settings(max_examples=300)
@given(form=st.sampled_from(FORMS), secret=password)
def test_no_part_of_a_password_is_shown(form: str, secret: str) -> None:
    address = form.format(secret)
    shown = redacted(address)
    message = scrubbed(f"cannot open '{address}': refused ({address})", [address])
    assert not set(shown + message) & set(LETTERS)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://admin:x@10.0.0.7:554/Streaming/Channels/101", "rtsp://10.0.0.7:554/Streaming/Channels/101"),
        ("rtsp://admin:a@b@10.0.0.7/live", "rtsp://10.0.0.7/live"),
        ("rtsp://admin:x@[fe80::1]:554/ch1", "rtsp://[fe80::1]:554/ch1"),
        ("udp://@239.0.0.1:5004", "udp://239.0.0.1:5004"),
        ("http://camera.local/mjpeg.cgi?pwd=x", "http://camera.local/mjpeg.cgi?…"),
        ("s3://fleet/2026/boat.mp4?region=eu", "s3://fleet/2026/boat.mp4?…"),
        ("file:///clips/river.mp4", "file:///clips/river.mp4"),
        ("footage/me@home.mp4", "footage/me@home.mp4"),
        ("2026-11-27T12:30:05.mp4", "2026-11-27T12:30:05.mp4"),
        ("synthetic:seed=1,loop=5", "synthetic:seed=1,loop=5"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_what_tells_two_cameras_apart_is_shown(address: str, shown: str) -> None:
    assert redacted(address) == shown


def test_a_file_with_a_name_like_an_address_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert redacted("12:30@bow.mp4") == "…"  # admin:secret@camera, without its scheme
    Path("12:30@bow.mp4").touch()
    assert redacted("12:30@bow.mp4") == "12:30@bow.mp4"


def test_addresses_without_credentials_stay_in_messages() -> None:
    message = "fetch it from https://example.org/weights/dino.pth and pass --weights"
    assert scrubbed(message) == message
    assert "QX" not in scrubbed("[tls] https://example.org/a?key=QX failed")


@pytest.mark.parametrize("kind", [UserError, CheckFailed])
def test_errors_leave_without_secrets(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="cannot open") as caught, redacting(["rtsp://a:Q X@cam/live"]):
        raise kind("cannot open rtsp://a:Q X@cam/live")
    assert "X" not in str(caught.value)


def test_a_command_prints_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise UserError(f"{Path('rtsp://admin:QXZ@cam/live')}: no such folder")

    assert run_command(command, "x") == 2
    assert "QXZ" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--sorce", "rtsp://admin:QXZ@cam/live"],
        ["--source", "clip.mp4", "--rotate", "rtsp://admin:QXZ@cam/live"],
        ["--camera", "rtsp://admin:QXZ@cam/live"],
        ["--source", "admin:QXZ@cam/live"],
        ["--source", "rtsp:admin:QXZ@cam/live"],
        ["--source", "nothing.mp4", "--mqtt", "mqtts://boat:QXZ@broker"],
    ],
)
def test_a_slip_of_the_keyboard_shows_no_password(
    flags: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    from il2vseg.runtime.cli import main

    with suppress(SystemExit):  # a wrong flag ends the process
        assert main(flags) == 2
    assert "QXZ" not in "".join(capfd.readouterr())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_list_shows_no_password() -> None:
    code = (
        "import sys; from il2vseg.base.redact import hide_arguments; hide_arguments(sys.argv[1:])\n"
        "print(open('/proc/self/cmdline').read().split(chr(0))[3:], sys.argv[1:])"
    )
    given = ["--source", "rtsp://a:QXZ@cam/live", "clip.mp4", "--token", "QXZ", "--token=QXZ", "--serve", "1"]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=True)
    seen, arguments = done.stdout.split("] [")
    assert "QXZ" not in seen
    assert all(kept in seen for kept in ("--source", "clip.mp4", "--serve"))
    assert arguments.count("QXZ") == 3  # the process itself still knows them
