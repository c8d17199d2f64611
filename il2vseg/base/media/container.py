"""Opening files and addresses with FFmpeg, and its errors in words that say what to do."""

import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MAX_PIXELS = 1 << 28
"""Pixels of the largest frame (16384x16384): a damaged header may promise any number of them."""

MAX_THREADS = 4
"""Threads of a decoder. Each holds a frame; more help little, and a damaged end loses as many frames."""


def open_container(
    name: str | Path, *, timeouts: tuple[float, float] | None = None, options: dict[str, str] | None = None
) -> Any:
    """Open a recording or a stream with PyAV.

    Args:
        name: a path (any bytes, any character) or, as `str`, an address.
        timeouts: seconds to open it and to wait for a later packet. options: of FFmpeg's demuxer.
    Raises:
        OSError, ValueError or another error of PyAV: see `reason`.
    """
    import av

    # After "file:" FFmpeg takes every character as it is; a path "12:30.mp4" would name a protocol.
    where = os.fsencode(name) if isinstance(name, Path) else None
    return av.open(
        name if where is None else os.fsdecode(b"file:" + where),
        timeout=timeouts,
        options=options or {},
        metadata_errors="replace",
    )


def video_stream(container: Any) -> Any | None:
    """Return the video stream to read, ready to decode with several threads, or None.

    Cover art of sound files is none.
    """
    import av

    best = container.streams.best("video")
    videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not videos:
        return None
    stream = best if best in videos else videos[0]
    if stream.codec_context is None:
        return None
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = min(MAX_THREADS, 1 + (os.cpu_count() or 1))
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def reason(error: BaseException, name: str = "") -> str:
    """Say in a few words why FFmpeg cannot open or read `name`; no address is repeated in it."""
    import av

    known: list[tuple[Any, str]] = [
        (av.error.HTTPUnauthorizedError, "wrong user name or password (401)"),
        (av.error.HTTPForbiddenError, "access is forbidden (403)"),
        (av.error.HTTPNotFoundError, "not found there (404)"),
        (av.error.HTTPClientError, "the server refuses the request (4xx)"),
        (av.error.HTTPServerError, "the server has a failure of its own (5xx)"),
        (av.error.ProtocolNotFoundError, "no such kind of address"),
        (av.error.ConnectionRefusedError, "connection refused: nothing listens there"),
        (av.error.ConnectionResetError, "the other side closed the connection"),
        (av.error.BrokenPipeError, "the other side closed the connection"),
        ((av.error.ExitError, av.error.TimeoutError), "no answer in time"),
        (av.error.FileNotFoundError, "no such file"),
        (av.error.PermissionError, "no permission to read it"),
        (av.error.IsADirectoryError, "is a folder"),
        (av.error.DecoderNotFoundError, "no decoder for its codec here"),
        (av.error.EOFError, "it ends at once"),
        (av.error.InvalidDataError, "damaged, or of a kind that is not known"),
    ]
    for kind, words in known:
        if isinstance(error, kind):
            return words
    host = urlsplit(name).hostname if "://" in name else None
    if host and not _resolves(host):
        return "there is no such host"
    return str(getattr(error, "strerror", None) or type(error).__name__).lower()


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
