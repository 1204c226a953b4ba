"""What goes over the wire, as pure functions: requests to build, messages to read. Opens no connection."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from service.client.arrays import mask_png, png, rgb_frame
from service.client.errors import ApiError, ClientError, SessionCancelled, SessionFailed

LabelMap = NDArray[np.uint8]
VideoInput = str | Path | bytes | Iterable[NDArray[np.uint8]]
MaskInput = str | Path | bytes | NDArray[np.uint8]
FormPart = tuple[str, tuple[str, IO[bytes] | bytes, str]]
Direction = Literal["forward", "backward", "both"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
PICTURES = ("exemplar", "exemplar_mask")
_PLACES = ("box", "point")
FINAL_STATES = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True)
class ObjectMask:
    """One object in one frame. bbox is (x, y, width, height) in pixels; score is 0 where it is not visible.

    uncertainty: 0 sure to 1 cannot be told apart; None from servers that do not say.
    """

    object_id: int
    score: float
    bbox: tuple[float, float, float, float]
    uncertainty: float | None = None


@dataclass(frozen=True)
class MaskFrame:
    """The masks of one frame.

    label_map: [H, W] uint8, 0 background, otherwise the object id that you gave. seq grows by one with every message;
    the same frame_index may come again with a higher seq after a correction, and then the later one counts.
    """

    seq: int
    frame_index: int
    label_map: LabelMap
    objects: tuple[ObjectMask, ...]
    pts_s: float | None = None
    image: NDArray[np.uint8] | bytes | None = field(default=None, repr=False)
    """Live: the frame that you sent."""

    def mask(self, object_id: int) -> NDArray[np.bool_]:
        """[H, W] bool mask of one object."""
        inside: NDArray[np.bool_] = self.label_map == object_id
        return inside


@dataclass(frozen=True)
class Progress:
    """How far a session is. frames_total is None while the length is unknown."""

    frames_done: int
    frames_total: int | None


@dataclass(frozen=True)
class SessionInfo:
    """A session as the server describes it; `raw` holds the whole answer."""

    session_id: str
    state: str
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class End:
    """The last message of a stream."""

    state: str
    error: Mapping[str, Any] | str | None

    def raise_unless_completed(self) -> None:
        """Turn a failed or cancelled end into its exception."""
        if self.state == "failed":
            raise SessionFailed(_error_text(self.error))
        if self.state == "cancelled":
            raise SessionCancelled("the session was cancelled")


Message = MaskFrame | Progress | End | None
"""A parsed stream message; None is one that this client has no use for."""


def parse_message(text: str | bytes) -> Message:
    """Read one text message of the stream. Raises ApiError for a refusal."""
    document = json.loads(text)
    kind = document.get("type")
    if kind == "mask":
        return _mask_frame(document)
    if kind == "progress":
        return Progress(int(document.get("frames_done", 0)), document.get("frames_total"))
    if kind == "end":
        return End(str(document["state"]), document.get("error"))
    if kind == "error":
        raise ApiError(document["problem"])
    return None


def session_info(document: Mapping[str, Any]) -> SessionInfo:
    """Read a session document."""
    return SessionInfo(str(document["session_id"]), str(document["state"]), document)


def problem_of(status: int, body: bytes) -> ApiError:
    """The exception for a refused request, whether or not its body is a problem document."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {"title": body[:200].decode("utf-8", "replace")}
    if not isinstance(problem, dict):
        problem = {"title": str(problem)}
    return ApiError({"status": status, **problem})


def server_url(url: str) -> str:
    """The address as given. Raises ClientError when no server can be reached by it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ClientError(f"{url!r} is no address of a server; write it as http://HOST:PORT or https://HOST")
    return url


def stream_url(base_url: str, session_id: str, after: int) -> str:
    """The WebSocket address of a session's stream, from the message after `after` on (-1: all)."""
    return _socket_url(base_url, f"/sessions/{session_id}/stream", urlencode({"after": after}) if after >= 0 else "")


def live_url(base_url: str) -> str:
    """The WebSocket address of /live."""
    return _socket_url(base_url, "/live")


def _socket_url(base_url: str, path: str, query: str = "") -> str:
    parts = urlsplit(base_url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + path, query, ""))


def auth_headers(api_key: str | None) -> dict[str, str]:
    """Headers that carry the key. Raises ClientError for one that no header can carry."""
    if api_key and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ClientError("the API key holds spaces, line ends or letters outside ASCII; paste it again, without them")
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def form_fields(options: Mapping[str, object]) -> dict[str, str | list[str]]:
    """Plain form fields: None is left out, a list of strings is a repeated field, other structures go as JSON.

    box, point: `"x,y,…"` or numbers; one, or a list of them.
    """
    return {name: _field(name, value) for name, value in options.items() if value is not None}


def field_parts(options: Mapping[str, object]) -> list[tuple[str, tuple[None, str]]]:
    """The same fields as parts of a multipart form, for one that has no file."""
    found = form_fields(options).items()
    return [(name, (None, text)) for name, value in found for text in ([value] if isinstance(value, str) else value)]


def _field(name: str, value: object) -> str | list[str]:
    if isinstance(value, str):
        return value
    each = list(value) if isinstance(value, list | tuple) else []
    if name in _PLACES and all(isinstance(item, list | tuple) for item in each):
        return [json.dumps(item, default=float) for item in each]
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in each):
        return [str(item) for item in each]
    return json.dumps(value, default=float)  # numpy's numbers


def form_files(video: VideoInput, masks: MaskInput | Sequence[MaskInput] | None) -> list[FormPart]:
    """The file parts of a new session. The caller closes what is open (see close_parts)."""
    return [("video", _video_part(video)), *mask_files(masks)]


def mask_files(masks: MaskInput | Sequence[MaskInput] | None) -> list[FormPart]:
    """The file parts of masks alone; the caller closes them."""
    if masks is None:
        return []
    each = masks if isinstance(masks, list | tuple) else [masks]
    return [("mask", _mask_part(mask, index)) for index, mask in enumerate(each)]


def picture_files(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[FormPart]]:
    """Options that are fields, and the file parts of those that are pictures; the caller closes them.

    exemplar, exemplar_mask: one picture or several, in pairs. files: by name, what `references` refers to.
    """
    fields = dict(options)
    named: list[tuple[str, Any]] = []
    for name in PICTURES:
        value = fields.pop(name, None)
        several = value if isinstance(value, list | tuple) else [] if value is None else [value]
        named += [(name, each) for each in several]
    named += list((fields.pop("files", None) or {}).items())
    return fields, [(name, _mask_part(value, index)) for index, (name, value) in enumerate(named)]


def close_parts(parts: Iterable[FormPart]) -> None:
    """Close the files that form_files() opened."""
    for _, (_, body, _) in parts:
        if not isinstance(body, bytes):
            body.close()


def _video_part(video: VideoInput) -> tuple[str, IO[bytes] | bytes, str]:
    if isinstance(video, bytes):
        return ("video", video, "application/octet-stream")
    if isinstance(video, str | Path):
        path = Path(video)
        if path.is_dir():
            return (f"{path.name}.zip", _zip_folder(path), "application/zip")
        return (path.name, path.open("rb"), "application/octet-stream")
    return ("frames.zip", _zip_frames(video), "application/zip")


def _zip_folder(folder: Path) -> bytes:
    names = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise ClientError(f"{folder} holds no images; expected numbered files like 00000.jpg")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in names:
            archive.write(path, path.name)
    return buffer.getvalue()


def _zip_frames(frames: Iterable[NDArray[np.uint8]]) -> bytes:
    buffer, count = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for count, frame in enumerate(frames, 1):
            archive.writestr(f"{count - 1:05d}.png", png(rgb_frame(frame)))
    if not count:
        raise ClientError("no frames were given: the iterable was empty")
    return buffer.getvalue()


def _mask_part(mask: MaskInput, index: int) -> tuple[str, IO[bytes] | bytes, str]:
    if isinstance(mask, bytes):
        return (f"mask{index}.png", mask, "image/png")
    if isinstance(mask, str | Path):
        return (Path(mask).name, Path(mask).open("rb"), "image/png")
    return (f"mask{index}.png", mask_png(mask), "image/png")


def _mask_frame(document: Mapping[str, Any]) -> MaskFrame:
    from pycocotools import mask as coco

    height, width = document["size"]
    label_map = np.zeros((height, width), np.uint8)
    objects = []
    for item in document["objects"]:
        box = tuple(item["bbox"])
        objects.append(ObjectMask(int(item["object_id"]), float(item["score"]), box, item.get("uncertainty")))
        rle = item.get("rle")
        if rle is not None:
            inside = coco.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")})
            label_map[inside.astype(bool)] = item["object_id"]
    return MaskFrame(
        int(document["seq"]), int(document["frame_index"]), label_map, tuple(objects), document.get("pts_s")
    )


def _error_text(error: Mapping[str, Any] | str | None) -> str:
    if isinstance(error, Mapping):
        return str(error.get("detail") or error.get("title") or dict(error))
    return str(error or "the session failed; the server gave no reason")
