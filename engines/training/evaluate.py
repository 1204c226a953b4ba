"""J&F of an engine or a floor on annotated clips. A segmenter is any function from frames and a first mask to masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.protocols import Engine
from engines.training.evaluation_clips import AnnotatedClip
from engines.training.metrics import contour_accuracy, region_similarity
from engines.types import Frame, LabelMap, MemoryPolicy, Size

Segmenter = Callable[[Iterator[Frame], LabelMap], Iterator[LabelMap]]
"""Frames of one clip and the label map of the first; yields one label map per frame, the first included."""

Progress = Callable[[str, int, int], None]
"""Called with clip name, frames done, frames in all."""


@dataclass(frozen=True)
class ObjectScore:
    """Mean J and F of one object over the scored frames, 0..1."""

    object_id: int
    region: float
    contour: float

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.region + self.contour) / 2


@dataclass(frozen=True)
class ClipScore:
    """Scores of one clip, all objects."""

    name: str
    composite: bool
    objects: tuple[ObjectScore, ...]

    @property
    def mean(self) -> float:
        """J&F, mean over the clip's objects."""
        return float(np.mean([score.mean for score in self.objects]))


@dataclass(frozen=True)
class Report:
    """Scores of one segmenter over clips."""

    segmenter: str
    clips: tuple[ClipScore, ...]

    def mean(self, part: str = "mean") -> float:
        """Mean of `mean`, `region` or `contour` over objects of real clips; over composites when there is nothing else.

        DAVIS averages over objects, not clips.
        """
        real = [clip for clip in self.clips if not clip.composite] or list(self.clips)
        return float(np.mean([getattr(score, part) for clip in real for score in clip.objects]))


def copy_first_mask(frames: Iterator[Frame], first: LabelMap) -> Iterator[LabelMap]:
    """Floor: every frame gets the first frame's mask."""
    for _ in frames:
        yield first


def warp_by_flow(frames: Iterator[Frame], first: LabelMap) -> Iterator[LabelMap]:
    """Floor: soft masks carried from frame to frame by DIS optical flow (medium preset), cut at one half."""
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grid_y, grid_x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
    soft = {i: (first == i).astype(np.float32) for i in object_ids(first)}
    previous: NDArray[np.uint8] | None = None
    for frame in frames:
        grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        if previous is not None:
            flow = np.asarray(flow_of.calc(grey, previous, None), np.float32)  # type: ignore[call-overload]
            at_x, at_y = grid_x + flow[..., 0], grid_y + flow[..., 1]
            soft = {i: np.asarray(cv2.remap(m, at_x, at_y, cv2.INTER_LINEAR), np.float32) for i, m in soft.items()}
        previous = grey
        labels: LabelMap = np.zeros(first.shape, np.uint8)
        for i, share in soft.items():
            labels[share > 0.5] = i
        yield labels


FLOORS: dict[str, Segmenter] = {"copy": copy_first_mask, "flow": warp_by_flow}


def engine_segmenter(engine: Engine, memory: MemoryPolicy | None = None) -> Segmenter:
    """A segmenter that gives `engine` the first mask and lets it propagate."""
    policy = memory or MemoryPolicy()

    def segment(frames: Iterator[Frame], first: LabelMap) -> Iterator[LabelMap]:
        track = engine.open(Size.of(first), policy)
        engine.memorize(track, next(frames), first, object_ids=object_ids(first))
        yield first
        for frame in frames:
            yield engine.propagate([track], [frame])[0].label_map

    return segment


def object_ids(labels: LabelMap) -> tuple[int, ...]:
    """Ids in a label map, ascending, without background and without "ignore"."""
    return tuple(int(i) for i in np.unique(labels) if 0 < i < 255)


def score_clip(clip: AnnotatedClip, predicted: Iterator[LabelMap]) -> ClipScore:
    """J and F of each object of the first frame, the first and the last frame left out, at the original size."""
    ids = object_ids(clip.label_map(0))
    last = len(clip.frame_paths) - 1
    regions: dict[int, list[float]] = {i: [] for i in ids}
    contours: dict[int, list[float]] = {i: [] for i in ids}
    for index, labels in enumerate(predicted):
        if index in (0, last):
            continue
        truth = clip.label_map(index)
        for i in ids:
            regions[i].append(region_similarity(labels == i, truth == i))
            contours[i].append(contour_accuracy(labels == i, truth == i))
    scores = tuple(ObjectScore(i, float(np.mean(regions[i])), float(np.mean(contours[i]))) for i in ids)
    return ClipScore(clip.name, clip.composite, scores)


def evaluate(
    name: str,
    segmenter: Segmenter,
    clips: Sequence[AnnotatedClip],
    *,
    save: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Segment every clip from its first mask and score it; `save` also writes `<save>/<clip>/NNNNN.png`."""
    scores = []
    for clip in clips:
        masks = segmenter(clip.frames(), clip.label_map(0))
        scores.append(score_clip(clip, _watched(clip, masks, save, progress)))
    return Report(name, tuple(scores))


def _watched(
    clip: AnnotatedClip, masks: Iterator[LabelMap], save: Path | None, progress: Progress | None
) -> Iterator[LabelMap]:
    if save is not None:
        (save / clip.name).mkdir(parents=True, exist_ok=True)
    for index, labels in enumerate(masks):
        if save is not None:
            Image.fromarray(labels).save(save / clip.name / f"{clip.frame_paths[index].stem}.png")
        if progress is not None:
            progress(clip.name, index + 1, len(clip.frame_paths))
        yield labels


def report_json(reports: Sequence[Report]) -> dict[str, object]:
    """Plain values for JSON, in per cent: segmenter -> mean, mean_J, mean_F and per clip and object the same."""
    return {
        report.segmenter: {
            "J&F": _percent(report.mean()),
            "J": _percent(report.mean("region")),
            "F": _percent(report.mean("contour")),
            "clips": {
                clip.name: {
                    "J&F": _percent(clip.mean),
                    "composite": clip.composite,
                    "objects": {
                        str(s.object_id): {
                            "J&F": _percent(s.mean),
                            "J": _percent(s.region),
                            "F": _percent(s.contour),
                        }
                        for s in clip.objects
                    },
                }
                for clip in report.clips
            },
        }
        for report in reports
    }


def _percent(share: float) -> float:
    return round(100 * share, 2)
