"""References from a form: masks, boxes, points, texts, exemplars, short form and `references` list alike.

What can be checked before anything of the video is known; `reference_reader` does the rest once its size is.
Object ids are the client's; the short form numbers objects 1, 2, … in the order of the parts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from engines.catalog import EngineInfo
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.upload import Form, Part
from service.errors import InvalidInput
from service.reference_rules import check_agreement, check_engine, check_text, text_route, unknown_words_warning
from service.schemas import Direction, Reference
from service.wording import counted

_NAMED_FILE = re.compile(r"(mask|exemplar)[A-Za-z0-9_.-]{0,40}")
_FIELDS = ("video", "mask", "text", "box", "point", "exemplar", "exemplar_mask", "references")
OPTIONS = ("engine", "memory", "max_side", "start_frame", "end_frame", "max_objects", "probability")
"""Form fields of an upload that are no references."""
DEFAULT_AUTO_OBJECTS = 3
MAX_AUTO_OBJECTS = 50
_MAX_TEXT = 500
MAX_POINTS = 5000
"""Of one session, all references together."""
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
    unsaid: Direction | None = None
    """Which way a reference is followed that does not say so; None: both ways if it is the earliest, else forwards."""

    def direction(self, entry: ReferenceIn) -> Direction:
        """Which way an entry is followed."""
        said = entry.direction or self.unsaid
        if said is not None:
            return said
        earliest = min((each.frame_index for each in self.entries), default=entry.frame_index)
        if self.masks:
            earliest = min(earliest, self.mask_frame)
        return "both" if entry.frame_index == earliest else "forward"

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of reference that were used."""
        return frozenset({entry.kind for entry in self.entries} | ({"mask"} if self.masks else set()))


def parse(form: Form, engine: EngineInfo, *, mask_frame: int, max_references: int) -> Intake:
    """Everything that can be checked without the video. Raises InvalidInput with the field's name."""
    check_engine(engine)
    _refuse_unknown_fields(form)
    masks = tuple(part.data for part in form.all("mask"))
    files = _files(form)
    entries = [*_listed(form.one("references"), max_references)]
    used = {entry.object_id for entry in entries}
    entries += _short_form(form, mask_frame, _free_ids(used, bool(masks)))
    if len(entries) + len(masks) > max_references:
        raise InvalidInput(f"{len(entries) + len(masks)} references are given; at most {max_references} are taken")
    require_few_points(sum(len(entry.points or ()) for entry in entries))
    check_agreement(entries)
    _refuse_unnamed_files(files, entries)
    warnings = tuple(_text_warnings(entries, engine))
    masks = masks if not _names_mask(entries) else ()
    auto = None if entries or masks else Reference(kind="auto", frame_index=mask_frame, max_objects=auto_limit(form))
    return Intake(tuple(entries), masks, mask_frame, files, auto, warnings)


def require_few_points(points: int) -> None:
    """Raises InvalidInput for more than anybody clicks: every look at the session would read them all."""
    if points > MAX_POINTS:
        raise InvalidInput(f"{points} points are given; a session takes at most {MAX_POINTS}", field="points")


def _files(form: Form) -> dict[str, bytes]:
    """File parts by name; the second of one name is `name#2`, which no part can be called."""
    files: dict[str, bytes] = {}
    seen: Counter[str] = Counter()
    for part in form.parts:
        if _NAMED_FILE.fullmatch(part.name):
            seen[part.name] += 1
            files[part.name if seen[part.name] == 1 else f"{part.name}#{seen[part.name]}"] = part.data
    return files


def _refuse_unnamed_files(files: Iterable[str], entries: Iterable[ReferenceIn]) -> None:
    """Raises InvalidInput for a file that would be left lying: a name mistyped, or `references` forgotten."""
    named = {name for entry in entries for name in (entry.mask, entry.exemplar, entry.exemplar_mask)}
    for name in files:
        if name.partition("#")[0] not in {*_FIELDS, *named}:
            raise InvalidInput(
                f"no entry of `references` names the file part {name!r}; name it there, or call the part `mask`",
                field=name,
            )


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
    return DEFAULT_AUTO_OBJECTS if text is None else parse_whole("max_objects", text, 1, MAX_AUTO_OBJECTS)


def _names_mask(entries: Iterable[ReferenceIn]) -> bool:
    """Whether the list refers to the part called `mask`; it is then no short form."""
    return any("mask" in (entry.mask, entry.exemplar_mask) for entry in entries)


def _refuse_unknown_fields(form: Form) -> None:
    for part in form.parts:
        if part.name not in (*_FIELDS, *OPTIONS) and not _NAMED_FILE.fullmatch(part.name):
            known = ", ".join((*_FIELDS, *OPTIONS))
            raise InvalidInput(f"the form field {part.name[:60]!r} is unknown; there are {known} (and mask_… files)")


def _listed(text: str | None, most: int) -> list[ReferenceIn]:
    if text is None:
        return []
    items = parse_json("references", text)
    if not isinstance(items, list):
        raise InvalidInput("references must be a JSON list")
    if len(items) > most:
        raise InvalidInput(f"{len(items)} references are given; at most {most} are taken", field="references")
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
    values += [{**value, "frame_index": frame_index} for value in _exemplars(form)]
    try:
        return [ReferenceIn.model_validate({"object_id": next(free, 0), **value}) for value in values]
    except ValidationError as error:
        raise InvalidInput(_first_reason(error)) from error


_SHAPES = {"box": "x,y,width,height", "point": "x,y"}


def _exemplars(form: Form) -> list[dict[str, Any]]:
    """`exemplar` and `exemplar_mask` parts in pairs, in the order they came."""
    images, marked = len(form.all("exemplar")), len(form.all("exemplar_mask"))
    given = f"{counted(images, 'image')}, {counted(marked, 'mask')}"
    if images > marked:
        raise InvalidInput(
            f"an `exemplar` image needs an `exemplar_mask` PNG of the same size: {given}",
            field="exemplar_mask",
        )
    if marked > images:
        raise InvalidInput(
            f"an `exemplar_mask` was sent without its `exemplar` image: {given}",
            field="exemplar",
        )
    suffixes = ["", *(f"#{number}" for number in range(2, images + 1))]
    return [
        {"kind": "exemplar", "exemplar": f"exemplar{suffix}", "exemplar_mask": f"exemplar_mask{suffix}"}
        for suffix in suffixes[:images]
    ]


def _numbers(part: Part) -> list[float]:
    """`[1, 2]`, or `1,2`."""
    text, shape = part.text.strip(), _SHAPES[part.name]
    try:
        value = json.loads(text if text.startswith("[") else f"[{text}]")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or len(value) != shape.count(",") + 1:
        raise InvalidInput(f"{part.name} is {shape} in pixels of the video, not {text[:40]!r}", field=part.name)
    return value


def parse_json(name: str, text: str) -> Any:
    """JSON of a form field. Raises InvalidInput."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is not valid JSON: {str(error)[:200]}") from error


def parse_whole(name: str, text: str, least: int, most: int) -> int:
    """A whole number in decimal digits. Raises InvalidInput."""
    digits = text.lstrip("0") or "0"
    if not text.isascii() or not text.isdecimal() or len(digits) > 18 or not least <= int(digits) <= most:
        raise InvalidInput(f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}", field=name)
    return int(digits)


def _first_reason(error: ValidationError) -> str:
    item = error.errors()[0]
    where = ".".join(str(part) for part in item["loc"])
    return f"{where}: {item['msg']}" if where else str(item["msg"])
