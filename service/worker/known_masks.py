"""What is known of frames apart from predictions: the client's references, and masks that were published before.

How a prediction is laid over or under them. Belongs to one session; knows neither engine nor writer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engines.types import LabelMap, Prediction
from service.plan import Segment
from service.worker.earlier import EarlierMasks
from service.worker.probabilities import Probabilities, small_probabilities
from service.worker.references import ReferenceMap


class KnownMasks:
    """The session says what there is, by draw(), and sets `earlier`: masks below the segment, None in the first pass.

    references: by frame, what the client has drawn. followed: the same without what is not followed the present
    segment's way, which is shown but not memorized.
    """

    def __init__(self) -> None:
        self.references: Mapping[int, ReferenceMap] = {}
        self.followed: Mapping[int, ReferenceMap] = {}
        self.earlier: EarlierMasks | None = None

    def draw(self, references: Mapping[int, ReferenceMap], followed: Mapping[int, ReferenceMap] | None = None) -> None:
        """What the client has drawn from now on; followed: if it is not all."""
        self.references = references
        self.followed = references if followed is None else followed

    def before(self, segment: Segment) -> list[ReferenceMap]:
        """What a fresh track memorizes before a segment's first frame: references behind it, then the frame next to it.

        In the order in which the segment would have met them. The last one is left out where the client drew the first
        frame itself, which is memorized as the segment comes to it.
        """
        first, step = segment.first_frame, segment.step
        anchor = first if self._begins_at_reference(segment) else first - step
        behind = sorted((f for f in self.followed if (f - first) * step < 0), reverse=step < 0)
        known = [self.followed[frame_index] for frame_index in behind if frame_index != anchor]
        last = None if anchor == first else self.at(anchor)
        return known if last is None else [*known, last]

    def _begins_at_reference(self, segment: Segment) -> bool:
        """Whether the segment's own reference lies at its first frame; backwards it may be the frame before that."""
        drawn = self.followed.get(segment.first_frame)
        if drawn is None or segment.step > 0:
            return drawn is not None
        return segment.object_ids is not None and bool(set(segment.object_ids) & set(drawn.object_ids))

    def at(self, frame_index: int) -> ReferenceMap | None:
        """A frame as the client and earlier masks have it; None where neither shows an object."""
        reference = self.followed.get(frame_index)
        earlier = self._earlier_map(frame_index)
        label_map = earlier if reference is None else reference.over(earlier)
        if label_map is None or not label_map.any():
            return None
        ids = _ids(label_map) | set(reference.object_ids if reference else ())
        return ReferenceMap(frame_index, label_map, tuple(sorted(ids)))

    def over(self, frame_index: int, prediction: Prediction | None) -> ReferenceMap | None:
        """The client's pixels over the prediction, or else over earlier masks; None where the client drew none.

        object_ids: those that the client annotates and those of earlier masks.
        """
        return self._over(self.references.get(frame_index), prediction)

    def to_memorize(self, frame_index: int, prediction: Prediction | None) -> ReferenceMap | None:
        """over() with those references alone that are followed this way."""
        return self._over(self.followed.get(frame_index), prediction)

    def _over(self, reference: ReferenceMap | None, prediction: Prediction | None) -> ReferenceMap | None:
        if reference is None:
            return None
        predicted = None if prediction is None else prediction.label_map
        ids = set(reference.object_ids)
        if predicted is None:
            predicted = self._earlier_map(reference.frame_index)
            ids |= set() if predicted is None else _ids(predicted)
        return ReferenceMap(reference.frame_index, reference.over(predicted), tuple(sorted(ids)))

    def shown(self, known: ReferenceMap, prediction: Prediction | None) -> Prediction:
        """What over() made as a prediction: certain of what the client has drawn."""
        drawn = self.references[known.frame_index].object_ids
        present = {int(i) for i in np.unique(known.label_map)}
        scores = {} if prediction is None else prediction.scores
        uncertainty = {} if prediction is None else prediction.uncertainty
        return Prediction(
            known.label_map,
            scores | {i: float(i in present) for i in known.object_ids},
            uncertainty | dict.fromkeys(drawn, 0.0),
        )

    def undrawn(self, frame_index: int, made: Prediction | None, touched: tuple[int, ...] | None) -> Probabilities:
        """What the engine itself made of the objects that a segment computes and the client did not draw here."""
        reference = self.references.get(frame_index)
        drawn = () if reference is None else reference.object_ids
        found = small_probabilities(made)
        return {i: p for i, p in found.items() if i not in drawn and (touched is None or i in touched)}

    def _earlier_map(self, frame_index: int) -> LabelMap | None:
        """The newest published mask of a frame at frame size; None in the first pass."""
        return None if self.earlier is None else self.earlier.label_map(frame_index)


def _ids(label_map: LabelMap) -> set[int]:
    return {int(i) for i in np.unique(label_map) if i}
