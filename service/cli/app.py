"""The typer app: one line per module of commands. A module imports what a command needs inside the command."""

from __future__ import annotations

import sys

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
    """Entry point of the `maskstream` command: errors made on purpose are one line, not a stack trace."""
    try:
        app()
    except (MaskstreamError, EngineError, ClientError) as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)
