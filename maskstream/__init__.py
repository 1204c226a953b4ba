"""Public names of maskstream. Everything is imported on first use, so that the client needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["AsyncClient", "Client", "LiveFrame", "create", "list_engines"]

_HOME = {
    "AsyncClient": "service.client:AsyncClient",
    "Client": "service.client:Client",
    "LiveFrame": "service.client:LiveFrame",
    "create": "engines.registry:create",
    "list_engines": "engines.catalog:engine_names",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'maskstream' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(module), attribute)
