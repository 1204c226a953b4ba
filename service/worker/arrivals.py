"""Claimed sessions whose video is still on its way to this machine, so that fetching one holds up no other.

Only for storage that is elsewhere. Each fetch has a thread; the copy is held until the session has taken it over.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field

import structlog

from service.schemas import Claim, SessionRecord
from service.storage import Storage
from service.worker.bell import Bell
from service.worker.writer import SessionWriter

_log = structlog.get_logger()


@dataclass
class Arrival:
    """One session on its way in. here: the fetch has ended, well or not; whoever opens the video finds out which."""

    claim: Claim
    record: SessionRecord
    writer: SessionWriter
    held: ExitStack = field(default_factory=ExitStack)
    here: threading.Event = field(default_factory=threading.Event)


class Arrivals:
    """Owned by the step loop; its threads touch nothing but the storage's copies."""

    def __init__(self, storage: Storage, bell: Bell) -> None:
        self._storage = storage
        self._bell = bell
        self._waiting: list[Arrival] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def device_bytes(self) -> int:
        """What the sessions will take of the device."""
        return sum(arrival.record.spec.device_bytes for arrival in self._waiting)

    def begin(self, arrival: Arrival) -> None:
        """Fetch its video; what arrived() gives when it is here. At once where storage is on this machine.

        A live session has no video.
        """
        self._waiting.append(arrival)
        if self._storage.is_here or arrival.record.spec.live:
            arrival.here.set()
            return
        name = f"fetch {arrival.record.id}"
        threading.Thread(target=self._fetch, args=(arrival,), name=name, daemon=True).start()

    def arrived(self) -> list[Arrival]:
        """Those whose fetch has ended, in the order of their claims; the caller leaves `held` when they are open."""
        here = [arrival for arrival in self._waiting if arrival.here.is_set()]
        self._waiting = [arrival for arrival in self._waiting if arrival not in here]
        return here

    def give_up(self) -> list[Arrival]:
        """All that still wait; their fetches end in the background."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _fetch(self, arrival: Arrival) -> None:
        record = arrival.record
        try:
            arrival.held.enter_context(self._storage.local(record.id, record.spec.video.name))
        except OSError as error:
            _log.warning("the video could not be fetched", session=record.id, error=str(error))
        finally:
            arrival.here.set()
            self._bell.ring()
