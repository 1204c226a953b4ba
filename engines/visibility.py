"""Which objects are to be seen, and how sure that is: the same rule and the same numbers for every engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.labels import Ranking, rank_channels
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
    return uncertainty_of(top[0], second)


def uncertainty_of(best: Tensor, second: Tensor) -> Tensor:
    """exp(1 - p1 / p2) of the largest and the second largest probability."""
    return torch.exp(1.0 - best / (second + 1e-8))


def predict(
    probability: Tensor,
    object_ids: Sequence[int],
    visibility: Visibility,
    *,
    keep_probability: bool = False,
    ranking: Ranking | None = None,
) -> Prediction:
    """Judge one frame: who is visible, the label map of those, their scores and uncertainties.

    probability: [K+1, H, W] float, background first, then object_ids in ascending order; sums to 1 over channels.
    ranking: of `probability`, where it is known already. Pixels of lost objects go to the next most probable channel.
    """
    ranked = ranking or rank_channels(probability)
    odds = (probability[1:] / probability[:1].clamp(min=1e-12)).flatten(1).amax(dim=1)
    peak = odds / (1 + odds)  # against the background alone
    area = torch.bincount(ranked.label.flatten(), minlength=probability.shape[0])
    for object_id, p, a in zip(object_ids, peak.tolist(), area[1:].tolist(), strict=True):
        visibility.observe(object_id, peak=p, area_px=a)
    lost = [c for c, object_id in enumerate(object_ids, start=1) if not visibility.is_visible(object_id)]
    shown = ranked
    if lost:
        shown = rank_channels(probability.index_fill(0, torch.tensor(lost, device=probability.device), -1.0))
    names = np.array([0, *object_ids], dtype=np.uint8)
    scores, doubts = _means(shown, ranked, len(names))
    return Prediction(
        label_map=names[shown.label.cpu().numpy()],
        scores=_by_object(object_ids, scores),
        uncertainty=_by_object(object_ids, doubts),
        probability=probability.float() if keep_probability else None,
    )


def _means(shown: Ranking, ranked: Ranking, channels: int) -> tuple[list[float], list[float]]:
    """Mean probability and mean uncertainty over each channel's pixels; 0 and 1 for a channel without any.

    The background's are not computed.
    """
    label = shown.label.flatten()
    inside = label.nonzero().squeeze(1)
    owner = label[inside].to(torch.int64)
    doubt = uncertainty_of(ranked.best.flatten()[inside], ranked.second.flatten()[inside])
    size = torch.bincount(owner, minlength=channels)
    means = []
    for values, empty in ((shown.best.flatten()[inside], 0.0), (doubt, 1.0)):
        sums = torch.zeros(channels, dtype=torch.float64, device=label.device).index_add_(0, owner, values.double())
        means.append(torch.where(size > 0, sums / size.clamp(min=1), empty).tolist())
    return means[0], means[1]


def _by_object(object_ids: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    return dict(zip(object_ids, values[1:], strict=True))
