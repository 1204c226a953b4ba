"""The parent's end of a decode child's pipe: records put together as their bytes come, without waiting for any.

Knows the form of a record and no meaning of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.settings import MIB
from service.worker.decode import HEADER


class ChildLost(Exception):
    """The child died, hung, or said something that is no record."""


class ChildEnded(ChildLost):
    """Its process has ended: the pipe has no other end."""


class Record(NamedTuple):
    """One record; payload is [length] uint8 of its own."""

    kind: bytes
    frame_index: int
    pts_s: float
    payload: NDArray[np.uint8]


class RecordReader:
    """Records of one child, from the read end of its standard output, which stays the caller's to close."""

    def __init__(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        with contextlib.suppress(OSError):  # more room than usual: fewer turns for a frame
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MIB)
        self.pipe = pipe
        self._header: tuple[bytes, int, float, int] | None = None
        self._data = np.empty(HEADER.size, np.uint8)
        self._have = 0

    def is_whole(self) -> bool:
        """Take the bytes that have come; whether they make a record. Raises ChildEnded."""
        while self._have < len(self._data) or self._header is None:
            try:
                got = os.readv(self.pipe, [self._data.data[self._have :]])
            except BlockingIOError:
                return False
            if got == 0:
                raise ChildEnded("its process ended")
            self._have += got
            if self._header is None and self._have == HEADER.size:
                self._header = HEADER.unpack(self._data.data)
                self._data, self._have = np.empty(self._header[3], np.uint8), 0
        return True

    def take(self, timeout_s: float) -> Record:
        """The next record, waited for if need be. Raises ChildLost."""
        deadline = time.monotonic() + timeout_s
        while not self.is_whole():
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not wait_for_any([self.pipe], left_s):
                raise ChildLost("it took too long")
        if self._header is None:
            raise ChildLost("a record without a header")
        kind, frame_index, pts_s, _ = self._header
        record = Record(kind, frame_index, pts_s, self._data)
        self._header, self._data, self._have = None, np.empty(HEADER.size, np.uint8), 0
        return record


def wait_for_any(pipes: Sequence[int], timeout_s: float) -> bool:
    """Wait until one of them has bytes or has ended; whether one has. poll(): select() stops at descriptor 1023."""
    poller = select.poll()
    for pipe in pipes:
        poller.register(pipe, select.POLLIN | select.POLLHUP)
    return bool(poller.poll(timeout_s * 1000))
