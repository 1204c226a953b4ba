"""Masks that a session has published before, read back for corrections: what a segment does not recompute.

Runs in the step loop, through the I/O thread. Everything asked for must be archived; flush the writer first.
"""

from __future__ import annotations

import numpy as np

from engines.types import LabelMap, Prediction
from service.archive import read_archive
from service.masks import compose
from service.plan import latest_seqs
from service.schemas import ArchiveRecord, MaskEvent, SessionRecord, without_dropped
from service.storage import Storage
from service.worker.resize import resize_labels


class EarlierMasks:
    """The newest mask of every frame below `before_seq`, without the objects that were dropped since.

    frame_size: (height, width) of the frames that the engine gets.
    """

    def __init__(
        self,
        storage: Storage,
        record: SessionRecord,
        before_seq: int,
        archives: list[ArchiveRecord],
        frame_size: tuple[int, int],
    ) -> None:
        self.dropped = record.dropped
        self._storage = storage
        self._session_id = record.id
        self._size = (record.spec.video.height, record.spec.video.width)
        self._frame_size = frame_size
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
        """The mask of a frame at frame size, or None."""
        event = self.event(frame_index)
        return None if event is None else resize_labels(label_map_of(event), self._frame_size)

    def under(self, frame_index: int, prediction: Prediction, touched: tuple[int, ...]) -> Prediction:
        """The touched objects as they are now, over all others as they were published; at displayed size."""
        scores = {i: score for i, score in prediction.scores.items() if i in touched}
        doubts = {i: doubt for i, doubt in prediction.uncertainty.items() if i in touched}
        event = self.event(frame_index)
        new = resize_labels(prediction.label_map, self._size)
        new = np.where(np.isin(new, touched), new, 0).astype(np.uint8)
        if event is None:
            return Prediction(new, scores, doubts)
        old = label_map_of(event)
        kept = np.where(np.isin(old, touched), 0, old)
        others = [item for item in event.objects if item.object_id not in touched]
        scores |= {item.object_id: item.score for item in others}
        doubts |= {item.object_id: item.uncertainty for item in others if item.uncertainty is not None}
        return Prediction(np.where(new > 0, new, kept).astype(np.uint8), scores, doubts)


def label_map_of(event: MaskEvent) -> LabelMap:
    """[H, W] of one mask message."""
    return compose([item.model_dump() for item in event.objects], event.size)
