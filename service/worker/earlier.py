"""Masks that a session has published before, read back for corrections: what a segment does not recompute.

Runs in the step loop, through the I/O thread. Everything asked for must be archived; flush the writer first.
"""

from __future__ import annotations

from engines.types import LabelMap
from service.archive import read_archive
from service.masks import compose
from service.plan import latest_seqs
from service.schemas import ArchiveRecord, MaskEvent, SessionRecord, without_dropped
from service.storage import Storage


class EarlierMasks:
    """The newest mask of every frame below `before_seq`, without the objects that were dropped since."""

    def __init__(self, storage: Storage, record: SessionRecord, before_seq: int, archives: list[ArchiveRecord]) -> None:
        self.dropped = record.dropped
        self._storage = storage
        self._session_id = record.id
        self._seqs = latest_seqs(record.plan, before_seq)
        self._archives = archives
        self._open: tuple[ArchiveRecord, list[bytes]] | None = None

    def event(self, frame_index: int) -> MaskEvent | None:
        """The mask message of a frame, or None when it has none yet."""
        seq = self._seqs.get(frame_index)
        if seq is None:
            return None
        if self._open is None or not self._open[0].first <= seq <= self._open[0].last:
            record = next(archive for archive in self._archives if archive.first <= seq <= archive.last)
            self._open = (record, read_archive(self._storage, self._session_id, record))
        record, lines = self._open
        return without_dropped(MaskEvent.model_validate_json(lines[seq - record.first]), self.dropped)

    def label_map(self, frame_index: int) -> LabelMap | None:
        """The mask of a frame at displayed size, or None."""
        event = self.event(frame_index)
        return None if event is None else label_map_of(event)


def label_map_of(event: MaskEvent) -> LabelMap:
    """[H, W] of one mask message."""
    return compose([item.model_dump() for item in event.objects], event.size)
