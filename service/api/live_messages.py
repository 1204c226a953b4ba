"""What a live client says: `open` and `frame` as JSON, turned into the forms that uploads are read from.

Files are base64 in JSON. Knows neither sockets nor sessions.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.references import parse_json
from service.api.upload import Form, Part
from service.errors import InvalidInput, MalformedRequest
from service.redis_keys import is_session_id
from service.schemas import LivePolicy

MAX_WINDOW = 256
_FILES = ("mask", "exemplar", "exemplar_mask")
_NUMBERS = ("box", "point")


class _Control(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    def rest(self) -> dict[str, Any]:
        """The fields that belong to the form."""
        return dict(self.model_extra or {})


class Open(_Control):
    """The first message: a new session's options, or the session to go on with."""

    type: Literal["open"]
    session_id: str | None = None
    after: int = Field(default=-1, ge=-1, lt=2**53)
    policy: LivePolicy | None = None
    window: int | None = Field(default=None, ge=1, le=MAX_WINDOW)
    keep_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    format: Literal["rle", "png"] = "rle"
    name: str | None = Field(default=None, max_length=200)


class FrameNote(_Control):
    """Speaks of the next binary message."""

    type: Literal["frame"]
    pts_s: float | None = Field(default=None, allow_inf_nan=False)


class Ack(BaseModel):
    """The client has all masks up to `seq`."""

    type: Literal["ack"]
    seq: int = Field(ge=0, lt=2**53, strict=True)


class End(BaseModel):
    """No more frames."""

    type: Literal["end"]


ClientMessage = Open | FrameNote | Ack | End
_KINDS: dict[str, type[ClientMessage]] = {"open": Open, "frame": FrameNote, "ack": Ack, "end": End}


def read_message(text: str) -> ClientMessage:
    """One text message. Raises MalformedRequest, InvalidInput."""
    try:
        document = parse_json("the message", text)
    except InvalidInput as error:
        raise MalformedRequest(error.detail) from error
    kind = document.get("type") if isinstance(document, dict) else None
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise MalformedRequest(f"a text message must be a JSON object whose `type` is one of {', '.join(_KINDS)}")
    try:
        message = model.model_validate(document)
    except ValidationError as error:
        item = error.errors()[0]
        raise InvalidInput(f"{kind}.{'.'.join(str(part) for part in item['loc'])}: {item['msg']}") from error
    if isinstance(message, Open) and message.session_id is not None:
        _check_resume(message)
    return message


def _check_resume(message: Open) -> None:
    if not is_session_id(message.session_id or ""):
        raise InvalidInput("open.session_id is not a session id; use the one that `ready` gave")
    if message.rest():
        raise InvalidInput(f"open: a session that goes on takes no {', '.join(sorted(message.rest()))[:200]}")


def form_of(fields: Mapping[str, Any], frame_index: int) -> Form:
    """A form as an upload would have sent it; references are of frame `frame_index`. Raises InvalidInput."""
    form = Form()
    for name, value in fields.items():
        if name == "references":
            form.parts.append(Part(name, None, json.dumps(_at_frame(value, frame_index)).encode()))
            continue
        for item in _items(name, value):
            form.parts.append(Part(name, None, _bytes(name, item)))
    return form


def _items(name: str, value: Any) -> list[Any]:
    """One value, or several of a list; a list of numbers is one box or point."""
    if not isinstance(value, list):
        return [value]
    flat = name in _NUMBERS and all(isinstance(item, int | float) for item in value)
    return [value] if flat else value


def _bytes(name: str, value: Any) -> bytes:
    if name in _FILES or name.startswith(("mask_", "exemplar_")):
        try:
            return base64.b64decode(str(value).partition("base64,")[2] or str(value), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidInput(f"{name} must be a file in base64, as text", field=name) from error
    try:
        return value.encode() if isinstance(value, str) else json.dumps(value).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} holds half a surrogate pair, which is no text", field=name) from error


def _at_frame(value: Any, frame_index: int) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput("references must be a list", field="references")
    for item in value:
        if isinstance(item, dict) and {"frame_index", "direction"} & set(item):
            raise InvalidInput(
                "references of a live session belong to the frame that they come with: leave frame_index and "
                "direction out",
                field="references",
            )
    return [{**item, "frame_index": frame_index} if isinstance(item, dict) else item for item in value]
