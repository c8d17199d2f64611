"""What of an address may be shown. Cameras take passwords in every part of a URL, so little of one is.

    redacted("rtsp://admin:secret@10.0.0.7:554/live")  ->  "rtsp://10.0.0.7:554/live"

A part is shown because it is known to be harmless, never because nothing suspicious was found in it.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from il2vseg.base.errors import CheckFailed, UserError

HIDDEN = "…"

SECRET_FLAGS = frozenset({"--token"})
"""Flags whose whole value is a secret."""

_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(.*)", re.DOTALL)
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?|\[[0-9A-Fa-f:.%]+\])(?::\d{1,5})?")
_PLAIN = re.compile(
    r"(?:(?:axis-)?(?:cgi(?:-bin)?|api|av|media|streaming|channels?|streams?|live|video(?:input)?|cam(?:era)?s?|"
    r"main|sub|ch|h26[45]|mjpe?g|mpeg4?|onvif\d?|profile|unicast|image|snapshot|bow|stern|port|starboard|mast)"
    r"[_-]?\d{0,4}|\d{1,3})(?:\.(?:sdp|cgi|mjpe?g|jpe?g|amp|ts|m3u8|mp4|mkv))?",
    re.IGNORECASE,
)
"""Segments of a path that are shown; a stream's name can be its key, and is not."""

_STORES = frozenset({"s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss", "file"})
"""Schemes whose path names a file and whose secrets are in the user or the query."""

_LIKE_CREDENTIALS = re.compile(
    r"[^/\s:]*:[^/\s]*@|(?:pass|pwd|token|auth|key|secret|user)[^/\s]*=", re.IGNORECASE
)
_IN_TEXT = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]+:/{1,3}[^\s'\"<>]+")


def redacted(address: str) -> str:
    """Return a source, broker or storage address as it may be shown.

    Of a URL: scheme, host, port and the well-known segments of its path; no user, no query. Where the host
    cannot be told from a password (an @ beyond the first slash), only the scheme. A path of the file system
    stays as it is.
    """
    if address.startswith("gst:"):
        element = re.match(r"gst:\s*([a-z0-9]+)(?=\s|$)", address)
        return f"gst:{element[1] if element else ''} {HIDDEN}"
    url = _URL.fullmatch(address)
    if url is None:
        return HIDDEN if _LIKE_CREDENTIALS.search(address) and not _exists(address) else address
    scheme, rest = url.groups()
    authority, path = re.fullmatch(r"([^/?#\\]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    host = authority.rpartition("@")[2]
    local = scheme.lower() == "file" and not host
    if "@" in path or not (local or _HOST.fullmatch(host)):
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{host}{_shown_path(path, scheme.lower() in _STORES)}"


def _exists(path: str) -> bool:
    with suppress(OSError, ValueError):
        return Path(path).exists()
    return False


def _shown_path(path: str, whole: bool) -> str:
    plain, mark, _ = re.fullmatch(r"([^?#;\\]*)([?#;\\]?)(.*)", path, re.DOTALL).groups()  # type: ignore[union-attr]
    parts = [part if whole or not part or _PLAIN.fullmatch(part) else HIDDEN for part in plain.split("/")]
    return "/".join(parts) + (f"?{HIDDEN}" if mark else "")


def scrubbed(text: str, addresses: Iterable[str] = ()) -> str:
    """Return a message in which no address tells a secret.

    Args:
        addresses: those that may occur, shown as `redacted` shows them. Others are recognised by their
            scheme, and shortened only if they hold an @ or an =.
    """
    for address in addresses:
        for form in (address, unquote(address)):
            if (shown := redacted(form)) != form:
                text = text.replace(form, shown)
    return _IN_TEXT.sub(lambda found: redacted(found[0]) if {"@", "="} & set(found[0]) else found[0], text)


@contextmanager
def redacting(addresses: Iterable[str]) -> Iterator[None]:
    """Remove the secrets of `addresses` from errors for the user."""
    try:
        yield
    except (UserError, CheckFailed) as error:
        raise type(error)(scrubbed(str(error), addresses)) from None


def hide_arguments(arguments: Sequence[str]) -> None:
    """Overwrite secrets in this process's arguments, which `ps` shows to every user of the machine (Linux).

    Args:
        arguments: of the command line, as in `sys.argv[1:]`.
    """
    flags = ("", *arguments)
    secrets = {
        argument
        for flag, argument in zip(flags, arguments, strict=False)
        if flag in SECRET_FLAGS or redacted(argument) != argument
    }
    secrets |= {a for a in arguments if a.partition("=")[0] in SECRET_FLAGS and "=" in a}
    if secrets and sys.platform == "linux":
        with suppress(OSError, ValueError, IndexError):
            _overwrite(secrets)


def _overwrite(secrets: Iterable[str]) -> None:
    import ctypes
    import os

    # Fields 48 and 49 of the line; the second, the program's name, may hold spaces and brackets.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    memory = ctypes.string_at(start, end - start)
    hidden = b"\0".join(
        b"*" * len(part) if part in {os.fsencode(s) for s in secrets} else part
        for part in memory.split(b"\0")
    )
    ctypes.memmove(start, hidden, len(hidden))
