"""The `maskstream` command. Each module beside this one adds its commands in `register(app)`."""

from __future__ import annotations

from service.cli.app import app, main

__all__ = ["app", "main"]
