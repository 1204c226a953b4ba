"""The typer app: one line per module of commands. A module imports what a command needs inside the command."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from engines.errors import EngineError
from service.cli import bench, demo, evaluate, keys, remote, serve, track, train, weights
from service.client.errors import ClientError
from service.errors import MaskstreamError

app = typer.Typer(
    name="maskstream",
    help="Segment objects through video: send a video and a first-frame mask, read every frame's masks.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

for _module in (serve, track, demo, bench, evaluate, train, keys, weights, remote):
    _module.register(app)


def main() -> None:
    """Entry point of the `maskstream` command: what the user can mend is one line, not a stack trace.

    That is errors made on purpose, and files that cannot be opened or written.
    """
    try:
        app()
    except (MaskstreamError, EngineError, ClientError) as error:
        _refuse(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}")


def _refuse(message: str) -> NoReturn:
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    sys.exit(2)
