"""The studio over HTTP: fixed files, JSON, and pictures by number; no address is a path of the disk."""

import json
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from il2vseg.base.errors import UserError
from il2vseg.runtime.web.guard import Access, Guard, Rules
from il2vseg.runtime.web.server import Door, server_of
from il2vseg.studio.footage import small
from il2vseg.studio.project import Stale
from il2vseg.studio.studio import Studio

MAX_BODY = 1 << 16
MAX_CONNECTIONS = 128

STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/steps.js": ("steps.js", "text/javascript; charset=utf-8"),
    "/naming.js": ("naming.js", "text/javascript; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
}

PICTURES = {
    "progress": ("model", "progress.png"),
    "model": ("model", "preview.png"),
    "student": ("student", "preview.png"),
    "parity": ("export", "parity.png"),
    "rejected": ("export", "rejected/parity.png"),
}
"""Pictures that commands wrote, by name: attribute of the project, file."""

_PATH = re.compile(r"/(?:(?:api|media)/[a-z0-9./]*|[a-z]*\.(?:js|css))?$")


def own_path(path: str) -> str:
    """The path that is meant, without what a proxy put before it."""
    found = _PATH.search(path)
    return found[0] if found else path


RULES = Rules("il2vseg studio", own_path, frozenset({"/api/act"}), MAX_BODY)


def _number(request: Request, key: str) -> int:
    text = request.path_params.get(key, request.query_params.get(key, ""))
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise UserError(f"{key} must be a number")
    return int(text)


def _answering(work: Callable[[Request], Response]) -> Callable[[Request], Any]:
    """An endpoint that works in a thread, and answers errors of the user's with their text."""

    async def endpoint(request: Request) -> Response:
        try:
            return await run_in_threadpool(work, request)
        except Stale as error:
            return PlainTextResponse(str(error), 409)
        except UserError as error:
            return PlainTextResponse(str(error), 400)
        except FileNotFoundError:
            return PlainTextResponse("there is no such picture", 404)

    return endpoint


class _Pages:
    """The answers."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def static(self, request: Request) -> Response:
        name, kind = STATIC[request.scope["path"]]
        return Response((files(__package__) / name).read_bytes(), media_type=kind)

    def state(self, request: Request) -> Response:
        return JSONResponse(self.studio.state())

    def clusters(self, request: Request) -> Response:
        like = _number(request, "like") if "like" in request.query_params else None
        return JSONResponse(self.studio.clusters(like))

    def clicks(self, request: Request) -> Response:
        return JSONResponse(self.studio.clicks())

    def losses(self, request: Request) -> Response:
        return JSONResponse(self.studio.losses())

    def command(self, request: Request) -> Response:
        try:
            settings = json.loads(request.query_params.get("settings", "{}"))
        except (ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            raise UserError("settings are a mapping")
        return JSONResponse({"command": self.studio.command(request.path_params["job"], settings)})

    def parity(self, request: Request) -> Response:
        return JSONResponse(self.studio.parity())

    def frame(self, request: Request) -> Response:
        width = min(960, max(16, _number(request, "width")))
        picture = self.studio.need_sample().frame(_number(request, "frame"))
        return Response(small(picture, width), media_type="image/jpeg")

    def labels(self, request: Request) -> Response:
        with self.studio.busy:
            data = self.studio.need_desk().label_picture(_number(request, "frame"))
        return Response(data, media_type="image/png")

    def exemplars(self, request: Request) -> Response:
        with self.studio.busy:
            data = self.studio.need_desk().exemplars(_number(request, "cluster"))
        return Response(data, media_type="image/jpeg")

    def heat(self, request: Request) -> Response:
        with self.studio.busy:
            data = self.studio.need_desk().heat(_number(request, "cluster"))
        return Response(data, media_type="image/png")

    def picture(self, request: Request) -> Response:
        if request.path_params["name"] not in PICTURES:
            raise UserError("there is no such picture")
        place, name = PICTURES[request.path_params["name"]]
        data = (getattr(self.studio.project, place) / name).read_bytes()
        return Response(data, media_type="image/png")

    def trial(self, request: Request) -> Response:
        sources = self.studio.clips()
        number = _number(request, "clip")
        if number >= len(sources):
            raise UserError("there is no such clip")
        frames = self.studio.trial.frames(self.studio.project.export, sources[number][1])
        if request.method == "HEAD":
            return Response(media_type="multipart/x-mixed-replace; boundary=frame")

        def parts() -> Iterator[bytes]:
            # As the runtime's stream: Chromium shows a picture when the next boundary comes.
            yield b"--frame\r\n"
            for data in frames:
                head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                yield head + data + b"\r\n--frame\r\n"

        return StreamingResponse(parts(), media_type="multipart/x-mixed-replace; boundary=frame")

    async def act(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body())
            revision, action = body["revision"], body["action"]
            if not isinstance(revision, int) or not isinstance(action, dict):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            return PlainTextResponse('{"revision": N, "action": {"do": ...}} is expected', 400)

        def work(_: Request) -> Response:
            self.studio.act(revision, action)
            return JSONResponse({"revision": self.studio.project.state.revision})

        answer: Response = await _answering(work)(request)
        return answer


def build_app(studio: Studio, access: Access) -> Starlette:
    """Put the routes together."""
    pages = _Pages(studio)
    routes = [Route(path, _answering(pages.static)) for path in STATIC]
    routes += [Route("/api/act", pages.act, methods=["POST"])]
    routes += [
        Route(path, _answering(work))
        for path, work in (
            ("/api/state", pages.state),
            ("/api/clusters", pages.clusters),
            ("/api/clicks", pages.clicks),
            ("/api/losses", pages.losses),
            ("/api/parity", pages.parity),
            ("/api/command/{job}", pages.command),
            ("/media/frame/{frame}.jpg", pages.frame),
            ("/media/labels/{frame}.png", pages.labels),
            ("/media/exemplars/{cluster}.jpg", pages.exemplars),
            ("/media/heat/{cluster}.png", pages.heat),
            ("/media/picture/{name}.png", pages.picture),
            ("/media/trial/{clip}.mjpg", pages.trial),
        )
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, access=access, rules=RULES)])


def make_server(studio: Studio, access: Access) -> uvicorn.Server:
    """A server of the page; run it on the sockets of a `Door`."""
    return server_of(build_app(studio, access), MAX_CONNECTIONS)


def serve(studio: Studio, door: Door) -> None:
    """Serve until Ctrl-C."""
    make_server(studio, door.access).run(sockets=[door.socket])
