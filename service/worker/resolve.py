"""A session's references that are no masks become label maps before its first segment starts.

Each map is written beside the upload and named in the record, so that a resume does not resolve again and a client can
see what was taken. Knows storage and frames; how an object is found is the engines' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engines.errors import UnsupportedReference, UnusableReference
from engines.prompts.contested import settle
from engines.prompts.resolver import ReferenceResolver, Resolved
from engines.prompts.window import Box, Point
from engines.protocols import Engine
from engines.types import Frame, LabelMap
from service.exemplars import read_exemplar
from service.masks import encode_png
from service.schemas import ObjectInfo, Reference, SessionRecord
from service.storage import INPUT, Storage
from service.worker.references import read_label_map
from service.worker.resize import resize_labels

FrameReader = Callable[[int, int], list[Frame]]
"""(first frame, how many) -> frames in order, fewer at the video's end; at the engine's frame size."""

_LATER_FRAMES = 3
_MOTION_SPAN_S = 0.25
_DEFAULT_FPS = 24.0


def needs_resolution(references: Sequence[Reference]) -> bool:
    """Whether a reference still has no label map. One whose object was looked for in vain names no object."""
    return any(_is_open(reference) for reference in references)


def _is_open(reference: Reference) -> bool:
    if reference.kind == "mask" or reference.label_map_file is not None:
        return False
    return reference.kind == "auto" or bool(reference.object_ids)


@dataclass(frozen=True)
class Scene:
    """What references are resolved with. epoch: of the claim; it names the files, which nobody overwrites."""

    storage: Storage
    resolver: ReferenceResolver
    engine: Engine
    read_frames: FrameReader
    epoch: int


def resolve_references(record: SessionRecord, scene: Scene) -> SessionRecord:
    """The record with a label map for every reference, the objects that `auto` found, and warnings.

    A reference that nothing in its frame fits becomes a warning as long as another one is left.
    Raises UnusableReference, UnsupportedReference when none is.
    """
    references = list(record.references)
    warnings = list(record.warnings)
    found: dict[int, _Found] = {}
    failure: UnusableReference | UnsupportedReference | None = None
    for index, reference in enumerate(references):
        if _is_open(reference):
            try:
                found[index] = _find(record, reference, scene)
                warnings += found[index].warnings
            except (UnusableReference, UnsupportedReference) as error:
                failure = error
                warnings.append(f"reference {index} ({reference.kind}) was left out: {error}")
                references[index] = reference.model_copy(update={"object_ids": ()})
    for index, label_map in _settled(found, references).items():
        references[index] = _kept(record, references[index], index, label_map, scene)
    if failure is not None and not any(reference.object_ids for reference in references):
        raise failure
    changes = {
        "references": tuple(references),
        "objects": _objects(record, references),
        "warnings": tuple(warnings),
    }
    return record.model_copy(update=changes)


@dataclass(frozen=True)
class _Found:
    """What a reference was taken to be. frame, label_map: of the engine's frame size."""

    frame: Frame
    label_map: LabelMap
    warnings: tuple[str, ...]


def _find(record: SessionRecord, reference: Reference, scene: Scene) -> _Found:
    frames = _frames(record, reference.frame_index, scene)
    label_map, warnings = _label_map(record, reference, frames, scene)
    return _Found(frames[0], label_map, warnings)


def _settled(found: Mapping[int, _Found], references: Sequence[Reference]) -> dict[int, LabelMap]:
    """Label maps by reference; those of one frame do not overlap."""
    maps = {index: each.label_map for index, each in found.items()}
    frames: dict[int, list[int]] = {}
    for index in found:
        frames.setdefault(references[index].frame_index, []).append(index)
    for members in frames.values():
        masks = settle(found[members[0]].frame, [maps[index] > 0 for index in members])
        for index, mask in zip(members, masks, strict=True):
            maps[index] = np.where(mask, maps[index], 0).astype(np.uint8)
    return maps


def _kept(record: SessionRecord, reference: Reference, index: int, label_map: LabelMap, scene: Scene) -> Reference:
    """The reference with its label map stored at displayed size."""
    name = f"{INPUT}/label-map-{scene.epoch}-{index}.png"
    size = (record.spec.video.height, record.spec.video.width)
    scene.storage.write(record.id, name, encode_png(resize_labels(label_map, size), indexed=False))
    ids = tuple(int(value) for value in np.unique(label_map) if value) or reference.object_ids
    return reference.model_copy(update={"label_map_file": name, "object_ids": ids})


def _objects(record: SessionRecord, references: Sequence[Reference]) -> tuple[ObjectInfo, ...]:
    """The session's objects, those that were found included."""
    objects = {item.object_id: item for item in record.objects}
    for object_id in (each for reference in references for each in reference.object_ids):
        objects.setdefault(object_id, ObjectInfo(object_id=object_id))
    return tuple(objects[object_id] for object_id in sorted(objects))


def _frames(record: SessionRecord, frame_index: int, scene: Scene) -> list[Frame]:
    """The reference's frame and a few around it, a quarter of a second in all: later ones, else earlier ones."""
    fps = record.spec.video.fps or _DEFAULT_FPS
    gap = max(1, round(_MOTION_SPAN_S * fps / _LATER_FRAMES))
    later = scene.read_frames(frame_index, gap * _LATER_FRAMES + 1)[::gap]
    if not later:
        raise UnusableReference(f"the video has no frame {frame_index}")
    if len(later) > 1 or frame_index == 0:
        return later
    first = max(0, frame_index - gap * _LATER_FRAMES)
    earlier = scene.read_frames(first, frame_index - first)
    return [later[0], *earlier[::-1][gap - 1 :: gap]]


def _label_map(
    record: SessionRecord, reference: Reference, frames: Sequence[Frame], scene: Scene
) -> tuple[LabelMap, tuple[str, ...]]:
    """[H, W] label map at frame size."""
    if reference.kind == "auto":
        return scene.resolver.find_objects(frames, reference.max_objects or 1), ()
    found = _mask(record, reference, frames, scene)
    if not found.mask.any():
        raise UnusableReference("it shows no pixel of an object")
    label_map = np.where(found.mask, reference.object_ids[0], 0).astype(np.uint8)
    return label_map, found.warnings


def _mask(record: SessionRecord, reference: Reference, frames: Sequence[Frame], scene: Scene) -> Resolved:
    scale = _Scale.of(record, frames[0])
    if reference.kind == "box" and reference.box is not None:
        return scene.resolver.box(frames[0], scale.box(reference.box))
    if reference.kind == "point":
        return scene.resolver.points(frames[0], [scale.point(each) for each in reference.points])
    if reference.kind == "text" and reference.text is not None:
        return scene.resolver.text(frames, reference.text, scene.engine)
    if reference.kind == "exemplar" and reference.file is not None and reference.mask_file is not None:
        exemplar = read_exemplar(scene.storage.read(record.id, reference.file))
        marked = read_label_map(scene.storage, record.id, reference.mask_file)
        return scene.resolver.exemplar(frames, exemplar, marked, scene.engine)
    raise UnsupportedReference(f"a reference of kind {reference.kind!r} is incomplete; send it again")


@dataclass(frozen=True)
class _Scale:
    """From pixels as displayed to pixels of the frames that the engine sees."""

    x: float
    y: float
    height: int
    width: int

    @classmethod
    def of(cls, record: SessionRecord, frame: NDArray[np.uint8]) -> _Scale:
        height, width = int(frame.shape[0]), int(frame.shape[1])
        return cls(width / record.spec.video.width, height / record.spec.video.height, height, width)

    def box(self, box: tuple[float, float, float, float]) -> Box:
        """The part of a box that lies in the frame."""
        left, top = max(0.0, box[0] * self.x), max(0.0, box[1] * self.y)
        right = min(float(self.width), (box[0] + box[2]) * self.x)
        bottom = min(float(self.height), (box[1] + box[3]) * self.y)
        return Box(left, top, right - left, bottom - top)

    def point(self, point: tuple[float, float, int]) -> Point:
        """A click, kept inside the frame."""
        scaled = Point(point[0] * self.x, point[1] * self.y, bool(point[2]))
        return replace(scaled, x=min(scaled.x, self.width - 1.0), y=min(scaled.y, self.height - 1.0))
