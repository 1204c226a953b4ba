"""References against the video that they are of: masks decoded, places and sizes checked, files named.

The second step after `references.parse`. Knows no storage: it gives back what to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.api.references import Intake, ReferenceIn
from service.errors import InvalidInput, UnreadableMask
from service.exemplars import read_exemplar
from service.masks import IGNORE_LABEL, LabelMap, encode_png, read_masks
from service.schemas import Direction, ObjectInfo, Reference
from service.storage import INPUT


@dataclass(frozen=True)
class ReadReferences:
    """References ready for the record.

    files: name in the session's storage -> bytes. notes: how masks were read. warnings: what was not understood.
    """

    references: tuple[Reference, ...]
    objects: tuple[ObjectInfo, ...]
    files: dict[str, bytes]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def followed(self, direction: Direction) -> ReadReferences:
        """The same, all followed in this direction."""
        turned = tuple(item.model_copy(update={"direction": direction}) for item in self.references)
        return replace(self, references=turned)


class References:
    """Reads an Intake against the video's displayed size."""

    def __init__(self, intake: Intake, size: tuple[int, int], *, max_objects: int, first_file: int = 0) -> None:
        self._intake = intake
        self._size = size
        self._max_objects = max_objects
        self._next_file = first_file
        self._files: dict[str, bytes] = {}
        self._references: list[Reference] = []
        self._notes: list[str] = []

    def read(self) -> ReadReferences:
        """Decode masks and check everything. Raises UnreadableMask, InvalidInput."""
        if self._intake.masks:
            read = read_masks(self._intake.masks, self._size, max_objects=self._max_objects)
            self._refuse_two_voices(read.object_ids)
            self._add_mask(self._intake.mask_frame, read.label_map, read.object_ids, self._intake.unsaid or "forward")
            self._notes.append(f"mask: {read.how}")
        self._add_listed_masks()
        for entry in self._intake.entries:
            if entry.kind != "mask":
                self._references.append(self._other(entry))
        if self._intake.auto is not None:
            limit = min(self._intake.auto.max_objects or 1, self._max_objects)
            self._references.append(self._intake.auto.model_copy(update={"max_objects": limit}))
        objects = self._objects()
        if len(objects) > self._max_objects:
            raise InvalidInput(f"{len(objects)} objects are given; at most {self._max_objects} are allowed")
        return ReadReferences(tuple(self._references), objects, self._files, tuple(self._notes), self._intake.warnings)

    def _refuse_two_voices(self, object_ids: Sequence[int]) -> None:
        """Raises InvalidInput when `references` describes an object of the `mask` parts at the same frame again."""
        for index, entry in enumerate(self._intake.entries):
            if entry.object_id in object_ids and entry.frame_index == self._intake.mask_frame:
                raise InvalidInput(
                    f"references[{index}]: object {entry.object_id} is in `mask` at frame {entry.frame_index} already; "
                    "give one of them, or another object_id",
                    field=f"references[{index}]",
                )

    def _add_listed_masks(self) -> None:
        """All masks of one frame and direction become one label map, later entries on top."""
        groups: dict[tuple[int, Direction], list[ReferenceIn]] = {}
        for entry in self._intake.entries:
            if entry.kind == "mask":
                groups.setdefault((entry.frame_index, self._intake.direction(entry)), []).append(entry)
        for (frame_index, direction), entries in groups.items():
            label_map = np.zeros(self._size, np.uint8)
            for entry in entries:
                inside, ignored = self._listed_mask(entry)
                label_map[ignored & (label_map == 0)] = IGNORE_LABEL
                label_map[inside] = entry.object_id
            ids = tuple(sorted({entry.object_id for entry in entries}))
            self._add_mask(frame_index, label_map, ids, direction)

    def _listed_mask(self, entry: ReferenceIn) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(pixels of this entry's object, pixels to ignore) in the part that it names."""
        name = entry.mask or "mask"
        read = read_masks([self._file(name, entry)], self._size, max_objects=254)
        binary = read.object_ids == (1,)
        if not binary and entry.object_id not in read.object_ids:
            held = list(read.object_ids)
            raise UnreadableMask(f"references: mask {name!r} has no pixel of object {entry.object_id}; it holds {held}")
        inside = read.label_map == (1 if binary else entry.object_id)
        self._notes.append(f"{name}, object {entry.object_id}: {read.how}")
        return inside, read.label_map == IGNORE_LABEL

    def _add_mask(self, frame_index: int, label_map: LabelMap, ids: Sequence[int], direction: Direction) -> None:
        name = self._keep("mask", encode_png(label_map, indexed=False), "png")
        self._references.append(
            Reference(kind="mask", frame_index=frame_index, object_ids=tuple(ids), file=name, direction=direction)
        )

    def _other(self, entry: ReferenceIn) -> Reference:
        facts: dict[str, Any] = {
            "kind": entry.kind,
            "frame_index": entry.frame_index,
            "object_ids": (entry.object_id,),
            "direction": self._intake.direction(entry),
        }
        if entry.kind == "box":
            return Reference(**facts, box=self._box(entry))
        if entry.kind == "point":
            return Reference(**facts, points=self._points(entry))
        if entry.kind == "text":
            return Reference(**facts, text=entry.text)
        picture, marked = self._exemplar(entry)
        image, mask = self._keep("exemplar", picture, "image"), self._keep("exemplar", marked, "png")
        return Reference(**facts, file=image, mask_file=mask)

    def _box(self, entry: ReferenceIn) -> tuple[float, float, float, float]:
        if entry.box is None:
            raise InvalidInput(f"references: object {entry.object_id} is of kind box but has no `box`")
        x, y, width, height = entry.box
        if width < 1 or height < 1:
            raise InvalidInput(f"box {list(entry.box)} (x, y, width, height) is empty", field="box")
        if x >= self._size[1] or y >= self._size[0] or x + width <= 0 or y + height <= 0:
            raise InvalidInput(
                f"box {list(entry.box)} (x, y, width, height) lies outside the {self._shown} video", field="box"
            )
        return entry.box

    def _points(self, entry: ReferenceIn) -> tuple[tuple[float, float, int], ...]:
        points = list(entry.points or [])
        if entry.point is not None:
            points.append((*entry.point, 1))
        if not any(point[2] for point in points):
            raise InvalidInput(f"references: object {entry.object_id} is of kind point but has no point inside it")
        for x, y, _ in points:
            if not (0 <= x < self._size[1] and 0 <= y < self._size[0]):
                raise InvalidInput(f"point [{x:g}, {y:g}] (x, y) lies outside the {self._shown} video", field="point")
        return tuple(points)

    def _exemplar(self, entry: ReferenceIn) -> tuple[bytes, bytes]:
        """The exemplar image as sent, and its mask as a label map in which 1 is the object."""
        data = self._file(entry.exemplar or "exemplar", entry)
        if (entry.exemplar_mask or "exemplar_mask") not in self._intake.files:
            raise InvalidInput(
                f"references: object {entry.object_id} has an exemplar without a mask; send a PNG of the same size "
                "that marks the object in it (exemplar_mask)",
                field="exemplar_mask",
            )
        height, width = read_exemplar(data).shape[:2]
        try:
            read = read_masks(
                [self._file(entry.exemplar_mask or "exemplar_mask", entry)], (height, width), max_objects=254
            )
        except UnreadableMask as error:
            raise UnreadableMask(
                f"exemplar_mask, for an exemplar of {height}x{width}: {error.detail}", field="exemplar_mask"
            ) from error
        marked = ((read.label_map > 0) & (read.label_map != IGNORE_LABEL)).astype(np.uint8)
        return data, encode_png(marked, indexed=False)

    @property
    def _shown(self) -> str:
        return f"{self._size[0]}x{self._size[1]} (height x width)"

    def _file(self, name: str, entry: ReferenceIn) -> bytes:
        if name not in self._intake.files:
            raise InvalidInput(
                f"references: object {entry.object_id} names the file part {name[:60]!r}, which the form does not have"
            )
        return self._intake.files[name]

    def _keep(self, kind: str, data: bytes, suffix: str) -> str:
        name = f"{INPUT}/{kind}-{self._next_file}.{suffix}"
        self._next_file += 1
        self._files[name] = data
        return name

    def _objects(self) -> tuple[ObjectInfo, ...]:
        found = {object_id: ObjectInfo(object_id=object_id) for ref in self._references for object_id in ref.object_ids}
        for entry in self._intake.entries:
            known = found[entry.object_id]
            found[entry.object_id] = ObjectInfo(
                object_id=entry.object_id, name=entry.name or known.name, color=entry.color or known.color
            )
        return tuple(found[object_id] for object_id in sorted(found))
