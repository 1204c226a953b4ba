"""The references of a session, read from storage as label maps at the engine's frame size.

Knows neither queue nor engine. References of one frame are one map: a later one wins where they overlap.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engines.types import LabelMap
from service.errors import InvalidInput
from service.plan import Segment
from service.schemas import Reference
from service.storage import Storage
from service.worker.resize import resize_labels


@dataclass(frozen=True)
class ReferenceMap:
    """What is known of one frame. label_map: [H, W] at frame size; object_ids: those that it annotates."""

    frame_index: int
    label_map: LabelMap
    object_ids: tuple[int, ...]

    def over(self, predicted: LabelMap | None) -> LabelMap:
        """The client's pixels over a predicted map: the annotated objects are where the client says, nowhere else."""
        if predicted is None:
            return self.label_map
        below = np.where(np.isin(predicted, self.object_ids), 0, predicted)
        return np.where(self.label_map > 0, self.label_map, below).astype(np.uint8)


def read_label_map(storage: Storage, session_id: str, name: str) -> LabelMap:
    """[H, W] object ids of a stored reference, 255 included."""
    with Image.open(io.BytesIO(storage.read(session_id, name)), formats=("PNG",)) as image:
        return np.array(image, dtype=np.uint8)


def followed_in(references: Iterable[Reference], segment: Segment) -> list[Reference]:
    """Those that a segment's track memorizes.

    Forwards not those that are followed backwards alone. Backwards, in the first pass, not those that are followed
    forwards alone; later segments go back for the objects that asked for it, and the others are no harm to them.
    """
    if segment.step > 0:
        return [each for each in references if each.direction != "backward"]
    return [each for each in references if segment.object_ids is not None or each.direction != "forward"]


def load_references(
    storage: Storage, session_id: str, references: Iterable[Reference], frame_size: tuple[int, int]
) -> dict[int, ReferenceMap]:
    """frame_index -> everything that the references say of that frame. References without an object are passed over.

    Raises InvalidInput for one that has not become a label map yet.
    """
    maps: dict[int, ReferenceMap] = {}
    for reference in references:
        if not reference.object_ids:
            continue
        name = reference.file if reference.kind == "mask" else reference.label_map_file
        if name is None:
            raise InvalidInput(f"a {reference.kind!r} reference has no label map yet; it must be resolved first")
        label_map = resize_labels(read_label_map(storage, session_id, name), frame_size)
        # A client's mask may show objects that were dropped since.
        label_map = np.where(np.isin(label_map, reference.object_ids), label_map, 0).astype(np.uint8)
        found = ReferenceMap(reference.frame_index, label_map, reference.object_ids)
        known = maps.get(reference.frame_index)
        if known is not None:
            ids = tuple(sorted({*known.object_ids, *found.object_ids}))
            found = ReferenceMap(reference.frame_index, found.over(known.label_map), ids)
        maps[reference.frame_index] = found
    return maps
