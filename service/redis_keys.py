"""Every key, every time to live, and the door to every Lua script. One Redis primary; Cluster is not supported.

The scripts stand in service/lua; all begin with _session.lua, which spells the same keys. Nothing else in the project
writes a key by hand.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

TOMBSTONE_TTL_S = 86_400
IDEMPOTENCY_TTL_S = 86_400
DEAD_LETTERS_MAX = 1_000
FINISHED_MASKS_TTL_S = 600
"""A finished session's mask stream; the archive holds the same."""
MASKS_KEPT = 256
"""Entries that stay in a mask stream beyond what is archived, for readers that lag a little."""

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class Keys:
    """Every key of one service; `prefix` keeps several apart on one server."""

    prefix: str = "maskstream:"

    @property
    def storage_id(self) -> str:
        """String: the storage_id that all processes must see."""
        return f"{self.prefix}storage_id"

    @property
    def sessions(self) -> str:
        """Sorted set, all scores 0: session ids, which sort by time of creation."""
        return f"{self.prefix}sessions"

    @property
    def workers(self) -> str:
        """Set of worker ids that have a lease, or had one that nobody has swept yet."""
        return f"{self.prefix}workers"

    @property
    def deleting(self) -> str:
        """Set of forgotten session ids whose files may still have to go."""
        return f"{self.prefix}deleting"

    @property
    def dead_letters(self) -> str:
        """Stream: sessions that killed their worker too often."""
        return f"{self.prefix}dead_letters"

    @property
    def api_keys(self) -> str:
        """Hash: key id -> JSON of an access key's SHA-256, name and dates."""
        return f"{self.prefix}api_keys"

    @property
    def news(self) -> str:
        """Pub/sub channel: something for the workers to look at; messages are empty."""
        return f"{self.prefix}news"

    def rate(self, who: str) -> str:
        """Hash {tokens, at}: a token bucket of one key or address."""
        return f"{self.prefix}rate:{who}"

    def session(self, session_id: str) -> str:
        """Hash: the SessionRecord, one field each."""
        return f"{self.prefix}session:{session_id}"

    def masks(self, session_id: str) -> str:
        """Stream: MaskEvents at `<seq+1>-0`, notes at `<next_seq>-k`; one field `e`, JSON."""
        return f"{self.prefix}session:{session_id}:masks"

    def archive(self, session_id: str) -> str:
        """List: committed ArchiveRecords in seq order."""
        return f"{self.prefix}session:{session_id}:archive"

    def requests(self, session_id: str) -> str:
        """List: references that a client added and the worker has yet to put into the plan."""
        return f"{self.prefix}session:{session_id}:requests"

    def live_input(self, session_id: str) -> str:
        """Stream: a live session's frames from its newest snapshot on at `<frame_index+1>-0`; `<next+1>-1` ends it."""
        return f"{self.prefix}session:{session_id}:input"

    def tombstone(self, session_id: str) -> str:
        """String `expired` or `deleted`: a session that once was."""
        return f"{self.prefix}tombstone:{session_id}"

    def jobs(self, engine: str) -> str:
        """Stream: JobRecords that wait for a worker of this engine."""
        return f"{self.prefix}jobs:{engine}"

    def owner_sessions(self, owner: str) -> str:
        """Sorted set like SESSIONS, of one owner."""
        return f"{self.prefix}owner:{owner}:sessions"

    def owner_active(self, owner: str) -> str:
        """Set: sessions of one owner that are queued or running."""
        return f"{self.prefix}owner:{owner}:active"

    def idempotency(self, owner: str, key: str) -> str:
        """Hash {digest, session}: what an Idempotency-Key was used for."""
        return f"{self.prefix}owner:{owner}:idempotency:{key}"

    def worker(self, worker_id: str) -> str:
        """Hash: the WorkerRecord and the sessions of its present stage."""
        return f"{self.prefix}worker:{worker_id}"

    def worker_lease(self, worker_id: str) -> str:
        """String with the deadline of the present stage as its time to live; gone means dead."""
        return f"{self.prefix}worker:{worker_id}:lease"

    def worker_sessions(self, worker_id: str) -> str:
        """Set: sessions that the worker has claimed."""
        return f"{self.prefix}worker:{worker_id}:sessions"

    def script(self, name: str) -> str:
        """The Lua source of one script for this prefix, with the shared prelude in front."""
        prelude = _source("_session").replace("@PREFIX@", self.prefix)
        return prelude.replace("@MASKS_TTL_S@", str(FINISHED_MASKS_TTL_S)) + _source(name)


@cache
def _source(name: str) -> str:
    return (files("service") / "lua" / f"{name}.lua").read_text()


def new_session_id() -> str:
    """26 characters: 48 bits of milliseconds, then 80 random bits; sorts by time, cannot be guessed."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_session_id(text: str) -> bool:
    """Whether the text has the form of a session id, so that it may name a folder or a key."""
    return len(text) == 26 and all(character in _CROCKFORD for character in text)
