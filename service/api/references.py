"""References from a form: masks, boxes, points, texts, exemplars, short form and `references` list alike.

Two steps: `parse` before anything of the video is known, `Intake.read` once its size is. Knows no storage: it gives
back what to write. Object ids are the client's; the short form numbers objects 1, 2, … in the order of the parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from engines.catalog import EngineInfo
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.upload import Form, Part
from service.errors import InvalidInput, UnreadableMask
from service.exemplars import read_exemplar
from service.masks import IGNORE_LABEL, LabelMap, encode_png, read_masks
from service.reference_rules import check_agreement, check_engine, check_text, text_route, unknown_words_warning
from service.schemas import Direction, ObjectInfo, Reference
from service.storage import INPUT

_NAMED_FILE = re.compile(r"(mask|exemplar)[A-Za-z0-9_.-]{0,40}")
_FIELDS = ("video", "mask", "text", "box", "point", "exemplar", "exemplar_mask", "references")
_OPTIONS = ("engine", "memory", "max_side", "start_frame", "end_frame", "max_objects", "probability")
DEFAULT_AUTO_OBJECTS = 3
MAX_AUTO_OBJECTS = 50
_MAX_TEXT = 500
Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class ReferenceIn(BaseModel):
    """One entry of the `references` list."""

    model_config = ConfigDict(extra="forbid")

    object_id: int = Field(ge=1, le=254)
    frame_index: int = Field(default=0, ge=0)
    kind: Literal["mask", "box", "point", "text", "exemplar"]
    mask: str | None = Field(default=None, description="Name of the form part that holds the PNG")
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = Field(
        default=None, description="x, y, width, height"
    )
    point: tuple[Coordinate, Coordinate] | None = Field(default=None, description="x, y inside the object")
    points: list[tuple[Coordinate, Coordinate, Literal[0, 1]]] | None = Field(
        default=None, max_length=1000, description="x, y, 1 inside the object or 0 outside"
    )
    text: str | None = Field(default=None, min_length=1, max_length=_MAX_TEXT)
    exemplar: str | None = Field(default=None, description="Name of the form part that holds the image")
    exemplar_mask: str | None = Field(default=None, description="Name of the form part that holds its mask")
    name: str | None = Field(default=None, max_length=200)
    color: str | None = Field(default=None, pattern=r"^#[0-9a-fA-F]{6}$")
    direction: Direction | None = Field(
        default=None, description="Left out: both ways from the earliest frame with a reference, else forward"
    )


@dataclass(frozen=True)
class Intake:
    """What the form said, before the video is known."""

    entries: tuple[ReferenceIn, ...]
    masks: tuple[bytes, ...]
    """`mask` parts of the short form, for `mask_frame`."""
    mask_frame: int
    files: dict[str, bytes]
    auto: Reference | None = None
    """Stands in when nothing was given: the worker finds the objects."""
    warnings: tuple[str, ...] = ()

    def direction(self, entry: ReferenceIn) -> Direction:
        """Which way an entry is followed, where the client did not say."""
        earliest = min((each.frame_index for each in self.entries), default=entry.frame_index)
        if self.masks:
            earliest = min(earliest, self.mask_frame)
        return entry.direction or ("both" if entry.frame_index == earliest else "forward")

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of reference that were used."""
        return frozenset({entry.kind for entry in self.entries} | ({"mask"} if self.masks else set()))


@dataclass(frozen=True)
class ReadReferences:
    """References ready for the record. files: name in the session's storage -> bytes. notes: how masks were read."""

    references: tuple[Reference, ...]
    objects: tuple[ObjectInfo, ...]
    files: dict[str, bytes]
    notes: tuple[str, ...]


def parse(form: Form, engine: EngineInfo, *, mask_frame: int, max_references: int) -> Intake:
    """Everything that can be checked without the video. Raises InvalidInput with the field's name."""
    check_engine(engine)
    _refuse_unknown_fields(form)
    masks = tuple(part.data for part in form.all("mask"))
    files = {part.name: part.data for part in form.parts if _NAMED_FILE.fullmatch(part.name)}
    entries = [*_listed(form.one("references"))]
    used = {entry.object_id for entry in entries}
    entries += _short_form(form, mask_frame, _free_ids(used, bool(masks)))
    if len(entries) + len(masks) > max_references:
        raise InvalidInput(f"{len(entries) + len(masks)} references are given; at most {max_references} are taken")
    check_agreement(entries)
    warnings = tuple(_text_warnings(entries, engine))
    masks = masks if not _names_mask(entries) else ()
    auto = None if entries or masks else Reference(kind="auto", frame_index=mask_frame, max_objects=auto_limit(form))
    return Intake(tuple(entries), masks, mask_frame, files, auto, warnings)


def _text_warnings(entries: Iterable[ReferenceIn], engine: EngineInfo) -> Iterable[str]:
    """Check every text; yields what was not understood."""
    for entry in entries:
        if entry.kind == "text":
            unknown = check_text(entry.text or "", engine, "text")
            if unknown:
                yield unknown_words_warning(entry.text or "", unknown, text_route(engine).engine)


def auto_limit(form: Form) -> int:
    """How many objects to look for when no reference is given. Raises InvalidInput."""
    text = form.one("max_objects")
    if text is None:
        return DEFAULT_AUTO_OBJECTS
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:6]) <= MAX_AUTO_OBJECTS:
        raise InvalidInput(
            f"max_objects must be a whole number from 1 to {MAX_AUTO_OBJECTS}, not {text[:40]!r}", field="max_objects"
        )
    return int(text)


def _names_mask(entries: Iterable[ReferenceIn]) -> bool:
    """Whether the list refers to the part called `mask`; it is then no short form."""
    return any("mask" in (entry.mask, entry.exemplar_mask) for entry in entries)


def _refuse_unknown_fields(form: Form) -> None:
    for part in form.parts:
        if part.name not in (*_FIELDS, *_OPTIONS) and not _NAMED_FILE.fullmatch(part.name):
            known = ", ".join((*_FIELDS, *_OPTIONS))
            raise InvalidInput(f"the form field {part.name[:60]!r} is unknown; there are {known} (and mask_… files)")


def _listed(text: str | None) -> list[ReferenceIn]:
    if text is None:
        return []
    items = parse_json("references", text)
    if not isinstance(items, list):
        raise InvalidInput("references must be a JSON list")
    try:
        return [ReferenceIn.model_validate(item) for item in items]
    except ValidationError as error:
        raise InvalidInput(f"references: {_first_reason(error)}") from error


def _free_ids(used: set[int], masks: bool) -> Iterable[int]:
    # Masks of the short form take their ids from the pixels, which are not known yet: others start high with them.
    return (number for number in range(100 if masks else 1, 255) if number not in used)


def _short_form(form: Form, frame_index: int, ids: Iterable[int]) -> list[ReferenceIn]:
    """`text`, `box`, `point` and `exemplar` fields: one object each."""
    free = iter(ids)
    values: list[dict[str, Any]] = []
    values += [{"kind": "text", "text": part.text.strip(), "frame_index": frame_index} for part in form.all("text")]
    values += [{"kind": "box", "box": _numbers(part), "frame_index": frame_index} for part in form.all("box")]
    values += [{"kind": "point", "point": _numbers(part), "frame_index": frame_index} for part in form.all("point")]
    if form.all("exemplar"):
        if not form.all("exemplar_mask"):
            raise InvalidInput(
                "an `exemplar` image needs an `exemplar_mask` PNG of the same size", field="exemplar_mask"
            )
        exemplar = {"exemplar": "exemplar", "exemplar_mask": "exemplar_mask"}
        values.append({"kind": "exemplar", "frame_index": frame_index, **exemplar})
    elif form.all("exemplar_mask"):
        raise InvalidInput("an `exemplar_mask` was sent without its `exemplar` image", field="exemplar")
    try:
        return [ReferenceIn.model_validate({"object_id": next(free, 0), **value}) for value in values]
    except ValidationError as error:
        raise InvalidInput(_first_reason(error)) from error


_SHAPES = {"box": "x,y,width,height", "point": "x,y"}


def _numbers(part: Part) -> list[float]:
    """`[1, 2]`, or `1,2`."""
    text, shape = part.text.strip(), _SHAPES[part.name]
    value = parse_json(part.name, text if text.startswith("[") else f"[{text}]")
    if not isinstance(value, list) or len(value) != shape.count(",") + 1:
        raise InvalidInput(f"{part.name} is {shape} in pixels of the video, not {text[:40]!r}", field=part.name)
    return value


def parse_json(name: str, text: str) -> Any:
    """JSON of a form field. Raises InvalidInput."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is not valid JSON: {str(error)[:200]}") from error


def _first_reason(error: ValidationError) -> str:
    item = error.errors()[0]
    where = ".".join(str(part) for part in item["loc"])
    return f"{where}: {item['msg']}" if where else str(item["msg"])


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
            self._add_mask(self._intake.mask_frame, read.label_map, read.object_ids, "forward")
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
        return ReadReferences(tuple(self._references), objects, self._files, tuple(self._notes))

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
