"""Which objects are to be seen, and how sure that is: the same rule and the same numbers for every engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.labels import most_probable
from engines.types import Prediction


@dataclass(frozen=True)
class VisibilityRule:
    """An object is seen in a frame when its peak probability and its area reach these.

    min_peak: probability against the background alone: two objects that are mistaken for each other are not lost.
    min_area_cells: area in cells of the network's stride. hysteresis_frames: so many frames in a
    row must disagree before a visible object counts as lost, or a lost one as visible.
    """

    min_peak: float = 0.6
    min_area_cells: float = 0.25
    hysteresis_frames: int = 2


@dataclass
class _Sight:
    visible: bool = True
    seen: bool = True
    disagreeing: int = 0


class Visibility:
    """Visible or lost, for each object of one track.

    cell_px: area of one stride cell in pixels of the displayed frame.
    """

    def __init__(self, cell_px: float, rule: VisibilityRule | None = None) -> None:
        self._rule = rule or VisibilityRule()
        self._min_area_px = self._rule.min_area_cells * cell_px
        self._cell_px = cell_px
        self._objects: dict[int, _Sight] = {}

    def reset(self, object_id: int) -> None:
        """A reference shows the object: it is visible from here on."""
        self._objects[object_id] = _Sight()

    def forget(self, object_id: int) -> None:
        """Stop following an object."""
        self._objects.pop(object_id, None)

    def observe(self, object_id: int, *, peak: float, area_px: float) -> None:
        """Take one frame's evidence for an object."""
        sight = self._objects.setdefault(object_id, _Sight())
        sight.seen = peak >= self._rule.min_peak and area_px >= self._min_area_px
        sight.disagreeing = 0 if sight.seen == sight.visible else sight.disagreeing + 1
        if sight.disagreeing >= self._rule.hysteresis_frames:
            sight.visible, sight.disagreeing = sight.seen, 0

    def is_visible(self, object_id: int) -> bool:
        """Whether the object's pixels are reported."""
        return self._objects.get(object_id, _Sight()).visible

    def is_certain(self, object_id: int) -> bool:
        """Visible, and seen in the newest frame: only such frames are memorised for the object."""
        sight = self._objects.get(object_id, _Sight())
        return sight.visible and sight.seen

    def to_json(self) -> str:
        """The state as one line, for a snapshot."""
        objects = {str(k): [s.visible, s.seen, s.disagreeing] for k, s in sorted(self._objects.items())}
        return json.dumps({"cell_px": self._cell_px, "objects": objects})

    @classmethod
    def from_json(cls, text: str, rule: VisibilityRule | None = None) -> Visibility:
        """The state that to_json() wrote."""
        state = json.loads(text)
        visibility = cls(float(state["cell_px"]), rule)
        visibility._objects = {int(k): _Sight(*values) for k, values in state["objects"].items()}
        return visibility


def uncertainty_map(probability: Tensor) -> Tensor:
    """[H, W] in (0, 1]: exp(1 - p1 / p2) of the two most probable channels, 1 where they tie.

    probability: [C, H, W], C >= 2. Source: AFB-URR, Liang et al. 2020, eq. 7.
    """
    top, channel = probability.max(dim=0, keepdim=True)
    second = probability.scatter(0, channel, -torch.inf).amax(dim=0)
    return torch.exp(1.0 - top[0] / (second + 1e-8))


def predict(
    probability: Tensor, object_ids: Sequence[int], visibility: Visibility, *, keep_probability: bool = False
) -> Prediction:
    """Judge one frame: who is visible, the label map of those, their scores and uncertainties.

    probability: [K+1, H, W] float, background first, then object_ids in ascending order; sums to 1 over channels.
    Pixels of lost objects go to the next most probable channel.
    """
    label = most_probable(probability)
    against_background = probability[1:] / (probability[1:] + probability[:1]).clamp(min=1e-12)
    peak = against_background.flatten(1).amax(dim=1)
    area = torch.bincount(label.flatten(), minlength=probability.shape[0])
    for object_id, p, a in zip(object_ids, peak.tolist(), area[1:].tolist(), strict=True):
        visibility.observe(object_id, peak=p, area_px=a)
    lost = [c for c, object_id in enumerate(object_ids, start=1) if not visibility.is_visible(object_id)]
    if lost:
        without_lost = probability.index_fill(0, torch.tensor(lost, device=probability.device), -1.0)
        label = most_probable(without_lost)
    names = np.array([0, *object_ids], dtype=np.uint8)
    scores = _mean_by_label(probability.gather(0, label[None])[0], label, len(names), empty=0.0)
    doubts = _mean_by_label(uncertainty_map(probability), label, len(names), empty=1.0)
    return Prediction(
        label_map=names[label.cpu().numpy()],
        scores=_by_object(object_ids, scores),
        uncertainty=_by_object(object_ids, doubts),
        probability=probability.float() if keep_probability else None,
    )


def _by_object(object_ids: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    return dict(zip(object_ids, values[1:], strict=True))


def _mean_by_label(values: Tensor, label: Tensor, channels: int, *, empty: float) -> list[float]:
    """Mean of `values` over the pixels of each channel; `empty` for a channel without pixels."""
    flat = label.flatten()
    sums = torch.zeros(channels, dtype=torch.float64, device=flat.device).index_add_(0, flat, values.double().flatten())
    size = torch.bincount(flat, minlength=channels)
    return torch.where(size > 0, sums / size.clamp(min=1), empty).tolist()
