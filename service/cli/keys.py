"""`maskstream keys create | list | revoke`."""

from __future__ import annotations

import typer

keys = typer.Typer(help="Access keys: create, list, revoke.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add `keys` and its sub-commands."""
    app.add_typer(keys, name="keys")
