"""Downloading against a local server that drops connections, refuses, and ignores ranges."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.data import fetch as module
from il2vseg.data import open_dataset
from il2vseg.data.fetch import Archive, download, fetch, main, unpack


def picture(suffix: str, image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(suffix, image)[1])


def archives() -> dict[str, bytes]:
    """Both archives of MaSTr1325 in small, flat as released."""
    rng = np.random.default_rng(0)
    files = {}
    for name, suffix, shape in (("images", ".jpg", (24, 32, 3)), ("masks", "m.png", (24, 32))):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as zipped:
            for i in range(1, 6):
                image = rng.integers(0, 3, shape).astype(np.uint8)
                zipped.writestr(f"{i:04d}{suffix}", picture(suffix[-4:], image))
        files[f"/data/MaSTr1325_{name}_512x384.zip"] = buffer.getvalue()
    return files


class Server(ThreadingHTTPServer):
    """Serves `files`; drops the connection after `drop_after` bytes as often as `drops` says."""

    files: dict[str, bytes]
    drops = 0
    drop_after = 700
    ranges = True
    status = 200
    seen: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.server.files.get(self.path)
        asked = self.headers.get("Range")
        self.server.seen.append(asked)
        if body is None or self.server.status != 200:
            self.send_error(404 if body is None else self.server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.server.drops:
            self.server.drops -= 1
            self.wfile.write(body[start : start + self.server.drop_after])
            self.close_connection = True
            return
        self.wfile.write(body[start:])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.seen = archives(), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


IMAGES = "MaSTr1325_images_512x384.zip"


def local(server: Server) -> tuple[Archive, ...]:
    return tuple(Archive(server.url + a.name, a.folder) for a in module.ARCHIVES["mastr1325"])


def test_a_dropped_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.drops = 3
    calls: list[tuple[int, int | None]] = []
    download(server.url + IMAGES, tmp_path / IMAGES, lambda done, total: calls.append((done, total)), pause=0)
    body = server.files["/data/" + IMAGES]
    assert (tmp_path / IMAGES).read_bytes() == body
    assert server.seen == [None, "bytes=700-", "bytes=1400-", "bytes=2100-"]
    assert calls[-1] == (len(body), len(body))
    assert [p.name for p in tmp_path.iterdir()] == [IMAGES]


def test_a_second_run_resumes_what_the_first_left(server: Server, tmp_path: Path) -> None:
    server.drops = 100
    server.drop_after = 0
    (tmp_path / f"{IMAGES}.part").write_bytes(server.files["/data/" + IMAGES][:1000])
    with pytest.raises(UserError, match="connection was dropped"):
        download(server.url + IMAGES, tmp_path / IMAGES, pause=0)
    assert (tmp_path / f"{IMAGES}.part").stat().st_size == 1000
    server.drops = 0
    download(server.url + IMAGES, tmp_path / IMAGES, pause=0)
    assert (tmp_path / IMAGES).read_bytes() == server.files["/data/" + IMAGES]
    assert server.seen[-1] == "bytes=1000-"


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.drops, server.ranges = 1, False
    download(server.url + IMAGES, tmp_path / IMAGES, pause=0)
    assert (tmp_path / IMAGES).read_bytes() == server.files["/data/" + IMAGES]


@pytest.mark.parametrize("extra", [b"", b"rubbish from another file"])
def test_a_part_that_is_already_whole_or_too_long(server: Server, tmp_path: Path, extra: bytes) -> None:
    body = server.files["/data/" + IMAGES]
    (tmp_path / f"{IMAGES}.part").write_bytes(body + extra)
    download(server.url + IMAGES, tmp_path / IMAGES, pause=0)
    assert (tmp_path / IMAGES).read_bytes() == body


def test_fetch_gives_a_data_set_that_opens_and_does_not_fetch_twice(server: Server, tmp_path: Path) -> None:
    server.drops = 2
    fetch(local(server), tmp_path, pause=0)
    assert len(open_dataset("mastr1325", tmp_path, "all", labelled=True)) == 5
    assert all(s.labels is not None for s in open_dataset("mastr1325", tmp_path, "val", labelled=True))
    sums = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert sums[0] == f"{hashlib.sha256(server.files['/data/' + IMAGES]).hexdigest()}  {IMAGES}"
    assert not list(tmp_path.glob("MaSTr*"))
    before = len(server.seen)
    fetch(local(server), tmp_path, pause=0)
    assert len(server.seen) == before


def test_a_known_sha256_must_match(server: Server, tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {IMAGES}\n")
    with pytest.raises(UserError, match="SHA-256"):
        fetch(local(server), tmp_path, pause=0)
    assert not (tmp_path / "images").exists()


def test_a_damaged_archive_leaves_nothing_half_unpacked(server: Server, tmp_path: Path) -> None:
    body = bytearray(server.files["/data/" + IMAGES])
    body[len(body) // 2] ^= 0xFF
    server.files["/data/" + IMAGES] = bytes(body)
    with pytest.raises(UserError, match="damaged"):
        fetch(local(server), tmp_path, pause=0)
    assert not list((tmp_path / "images").iterdir())
    assert not (tmp_path / "SHA256SUMS").exists()


def test_archives_with_folders_merge_into_what_is_there(tmp_path: Path) -> None:
    for i, name in enumerate(("a", "b")):
        archive = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr(f"val2017/{name}.txt", str(i))
        assert unpack(archive, tmp_path / "images") == 1
    assert sorted(p.name for p in (tmp_path / "images" / "val2017").iterdir()) == ["a.txt", "b.txt"]
    assert not list(tmp_path.glob(".unpack-*"))


def test_the_command_fetches_from_a_mirror(server: Server, tmp_path: Path, capsys) -> None:
    assert main(["mastr1325", "--root", str(tmp_path), "--mirror", server.url]) == 0
    assert "--dataset mastr1325 --root" in capsys.readouterr().out
    assert len(list((tmp_path / "images").iterdir())) == 5


def test_an_unreachable_host_is_one_clear_line(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    assert main(["mastr1325", "--root", str(tmp_path), "--mirror", "http://127.0.0.1:9/"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be downloaded" in error
    assert "put it at" in error


def test_a_refusal_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="404"):
        download(server.url + "nothing.zip", tmp_path / "nothing.zip", pause=0)
    assert len(server.seen) == 1
    server.status = 503
    with pytest.raises(UserError, match="503"):
        download(server.url + IMAGES, tmp_path / IMAGES, pause=0)
    assert len(server.seen) == 1 + module.ATTEMPTS


@pytest.mark.parametrize("name", module.MANUAL)
def test_sets_that_need_registration_say_where_and_what_to_put_where(name: str, capsys) -> None:
    assert main([name, "--root", "somewhere"]) == 0
    out = capsys.readouterr().out
    assert "somewhere/" in out
    assert "." in out.split()[0] or "http" in out or "doi" in out or "github" in out


def test_unknown_names_are_refused(capsys) -> None:
    assert main(["imagenet"]) == 2
    assert "known: mastr1325" in capsys.readouterr().err
