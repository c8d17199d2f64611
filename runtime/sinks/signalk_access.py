"""The right to write to a Signal K server: not needed, given as a token, or asked for and granted."""

import json
import os
import secrets
import uuid
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from il2vseg.base.errors import UserError

TOKEN_VARIABLE = "IL2VSEG_SIGNALK_TOKEN"

ANSWER_S = 5.0
"""Seconds after which a server that says nothing counts as away."""

_NO_REQUESTS = (404, 405, 500, 501)
"""What servers say that know no access requests, or whose security is off."""
_BUSY = (429, 503)


class NotYetError(Exception):
    """The server's owner has not granted access yet."""


class RefusedError(Exception):
    """The server does not let us write, and asking again will not help."""


def read_token(file: Path | None) -> str | None:
    """Return the token in `file`, else that of $IL2VSEG_SIGNALK_TOKEN, else None.

    Raises:
        UserError: the file cannot be read, or holds no token.
    """
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"--signalk-token {file}: cannot be read ({why})") from None
    if not token or not token.isascii() or any(c.isspace() for c in token):
        raise UserError(f"--signalk-token {file}: it must hold one token and nothing else")
    return token


class Access:
    """A token for one server, remembered from run to run in a file that only its owner may read.

    access = Access("http://boat:3000", "camera bow", Path("~/.cache/il2vseg/signalk-boat-3000.json"))
    token = access.token()
    """

    def __init__(self, http: str, description: str, memory: Path, token: str | None = None) -> None:
        """Prepare.

        Args:
            http: the server's address. description: what its owner is asked about. memory: the file.
            token: one that was given; nothing is asked for or remembered then.
        """
        self._http = http
        self._description = description
        self._memory = memory
        self._given = token
        self._known = {} if token else self._remembered()

    def token(self) -> str | None:
        """Return the token to connect with, None where the server wants none. Asks for access where it does.

        Raises:
            NotYetError: the request is made, and not granted yet.
            RefusedError: the request was denied, or may not be made.
            OSError: the server is away.
        """
        if self._given or self._known.get("token"):
            return self._given or str(self._known["token"])
        status, login = self._call("/skServer/loginStatus")
        if status == 200 and login.get("authenticationRequired") is False:
            return None
        return self._answer() if self._known.get("href") else self._ask()

    def rejected(self) -> None:
        """Take note that the server does not accept the token.

        Raises:
            RefusedError: it was a given one; one that was granted is forgotten, to ask for another.
        """
        if self._given:
            raise RefusedError("does not accept the token that was given")
        self._remember(token=None, href=None)

    def _ask(self) -> str | None:
        name = str(self._known.get("clientId") or uuid.uuid4())
        request = {"clientId": name, "description": self._description, "permissions": "readwrite"}
        status, reply = self._call("/signalk/v1/access/requests", request)
        if status in _NO_REQUESTS:
            return None
        if status == 202 and str(reply.get("href", "")).startswith("/"):
            self._remember(clientId=name, href=reply["href"])
            raise NotYetError
        if status == 400:  # a request under this name is pending whose number we do not know
            self._remember(clientId=None)
        if status in (400, *_BUSY):
            raise NotYetError
        raise RefusedError(f"takes no requests for access ({status})")

    def _answer(self) -> str:
        status, reply = self._call(str(self._known["href"]))
        if status != 200 and status not in _BUSY:  # the server was started anew, and forgot
            self._remember(href=None)
        if reply.get("state") != "COMPLETED":
            raise NotYetError
        granted = reply.get("accessRequest") or {}
        self._remember(href=None, token=granted.get("token"))
        if granted.get("permission") != "APPROVED" or not granted.get("token"):
            raise RefusedError("denied the request for access")
        return str(granted["token"])

    def _call(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of an answer, {} where it is none."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._http + path, data, {"Content-Type": "application/json"})
        opener = build_opener(ProxyHandler({}))  # the server is aboard
        try:
            with opener.open(request, timeout=ANSWER_S) as answer:
                status, text = int(answer.status), answer.read(1 << 16)
        except HTTPError as error:
            with error:
                status, text = error.code, b""
        except HTTPException as error:
            raise OSError(f"speaks no HTTP ({type(error).__name__})") from None
        with suppress(ValueError):
            found = json.loads(text)
            if isinstance(found, dict):
                return status, found
        return status, {}

    def _remembered(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found = json.loads(self._memory.read_text())
            if isinstance(found, dict):
                return found
        return {}

    def _remember(self, **values: str | None) -> None:
        self._known.update(values)
        temporary = self._memory.with_name(f".{self._memory.name}-{secrets.token_hex(4)}")
        with suppress(OSError):  # then it lasts for this run
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump({k: v for k, v in self._known.items() if v is not None}, file)
            temporary.replace(self._memory)
