"""What every session gets from the worker that it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engines.prompts.resolver import ReferenceResolver
from service.schemas import ArchiveRecord
from service.storage import Storage
from service.worker.child_frames import DecodeLimits
from service.worker.io import IoThread


@dataclass(frozen=True)
class Surroundings:
    """What a session needs of its worker. archives: the session's committed archive files, asked of Redis."""

    storage: Storage
    limits: DecodeLimits
    archives: Callable[[str], list[ArchiveRecord]]
    resolver: ReferenceResolver
    io: IoThread
    live_input_bytes: int
