"""`maskstream serve`, `api` and `worker`: the processes of the service."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands that run the service."""
