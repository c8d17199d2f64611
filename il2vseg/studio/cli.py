"""il2vseg studio: the page from footage to an exported model."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from il2vseg.base.command import IGNORE_MASK_HELP, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command

if TYPE_CHECKING:
    from il2vseg.runtime.web.server import Door
    from il2vseg.studio.project import Footage, Project
    from il2vseg.studio.steps import Options

PROGRAM = "il2vseg studio"
PORT = 8477
"""Where the page is unless that is taken: a page that is open finds a studio that was started again."""

SERVE_HELP = f"where the page is; without a host only this machine is served (default: {PORT}, or a free one)"
TOKEN_HELP = "what a browser must know to see the page; default: one is made up and kept in the project"
ALLOW_HOST_HELP = "further names of this machine that the page answers to"


@dataclass
class StudioConfig(Settings):
    """Train, name, distil, export and try a model on a page in the browser, from footage without labels."""

    footage: Path | None = flag(
        None,
        "folder of images or clips, or a clip; without it that of the project, or rendered scenes",
        positional=True,
        metavar="FOLDER|CLIP",
    )
    project: Path | None = flag(
        None, "folder that everything is written to; default: runs/studio-FOOTAGE", metavar="DIR"
    )
    ignore_mask: str | None = flag(None, IGNORE_MASK_HELP, metavar="FILE|POLYGON")
    backbone: str = flag("dinov2_vits14", "frozen feature extractor", metavar="NAME")
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")
    method: str | None = flag(None, "training method; default: that of il2vseg train", metavar="NAME")
    like: Path | None = flag(None, "a model with names that proposes some", metavar="MODEL")
    clip: tuple[Path, ...] | None = flag(
        None, "clips or folders to try the export on, besides the footage", metavar="FILE"
    )
    serve: str | None = flag(None, SERVE_HELP, metavar="[HOST:]PORT")
    token: str | None = flag(None, TOKEN_HELP, metavar="TEXT")
    allow_host: tuple[str, ...] | None = flag(None, ALLOW_HOST_HELP, metavar="NAME")


def footage_of(path: Path | None, ignore_mask: str | None) -> "Footage | None":
    """The footage that a person named.

    Raises:
        UserError: there is nothing there.
    """
    from il2vseg.studio.project import Footage

    if path is None:
        return None
    if not path.exists():
        raise UserError(f"{path}: no such folder or clip")
    return Footage("folder", path.resolve(), ignore_mask)


def clips_of(paths: tuple[Path, ...] | None) -> tuple[Path, ...]:
    """The clips that a person named.

    Raises:
        UserError: there is nothing at one of them.
    """
    for path in paths or ():
        if not path.exists():
            raise UserError(f"--clip {path}: no such clip or folder")
    return tuple(path.resolve() for path in paths or ())


def open_page(project: "Project", serve: str | None, token: str | None, names: tuple[str, ...]) -> "Door":
    """Listen where the page shall be.

    Raises:
        UserError: that address cannot be bound.
    """
    from il2vseg.runtime.web.server import open_door

    token = token or project.state.token
    if serve is not None:
        return open_door(serve, token, names)
    try:
        return open_door(str(PORT), token, names)
    except UserError:
        return open_door("0", token, names)


def run(
    project: "Project",
    options: "Options",
    *,
    serve: str | None = None,
    token: str | None = None,
    names: tuple[str, ...] = (),
    naming_only: bool = False,
) -> None:
    """Serve a project until Ctrl-C.

    Raises:
        UserError: what serves pages is not installed, the address cannot be bound, or another studio works
            on the project.
    """
    if find_spec("uvicorn") is None or find_spec("starlette") is None:
        raise UserError("the page needs starlette and uvicorn: pip install 'il2vseg[web]'")
    from il2vseg.studio.server import serve as serve_page
    from il2vseg.studio.studio import Studio

    with project:
        door = open_page(project, serve, token, names)
        studio = Studio(project, options, naming_only=naming_only)
        print(f"page: {door.url}", file=sys.stderr)
        print("everything is kept; Ctrl-C ends the page, the same command goes on", file=sys.stderr)
        studio.refresh()
        try:
            serve_page(studio, door)
        finally:
            for kind in studio.close():
                print(f"{kind} goes on in the background; the same command shows it", file=sys.stderr)


def studio(config: StudioConfig) -> None:
    """Run the command."""
    from il2vseg.studio.project import Project
    from il2vseg.studio.steps import Options

    footage = footage_of(config.footage, config.ignore_mask)
    clips = clips_of(config.clip)
    name = "rendered" if footage is None else (footage.title.replace(" ", "-") or "footage")
    project = Project(config.project or Path("runs") / f"studio-{name}", footage)
    run(
        project,
        Options(config.backbone, config.method, config.weights, config.like, clips),
        serve=config.serve,
        token=config.token,
        names=config.allow_host or (),
    )


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `il2vseg studio`."""

    def command() -> None:
        studio(parse(StudioConfig, prog, argv))

    return run_command(command, prog)


if __name__ == "__main__":
    raise SystemExit(main())
