"""What comes over the wire, and addresses, as pure functions; `forms` has the requests. Opens no connection."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from service.client.errors import ApiError, ClientError, SessionCancelled, SessionFailed

LabelMap = NDArray[np.uint8]
Direction = Literal["forward", "backward", "both"]

_PAGE = 200
_log = logging.getLogger("maskstream.client")
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


def log_warnings(document: Mapping[str, Any]) -> None:
    """Tell whoever reads the log what the server warned of: no worker for the engine, words that nobody knows."""
    for warning in document.get("warnings") or ():
        _log.warning("%s", warning)


class Pages:
    """The newest sessions, collected page by page: ask with query() until it gives None, take() each answer."""

    def __init__(self, limit: int) -> None:
        self.sessions: list[SessionInfo] = []
        self._limit = limit
        self._cursor: str | None = ""

    def query(self) -> dict[str, str | int] | None:
        """Parameters of the next page; None when there are enough, or no more."""
        missing = self._limit - len(self.sessions)
        if missing <= 0 or self._cursor is None:
            return None
        return {"limit": min(missing, _PAGE), **({"cursor": self._cursor} if self._cursor else {})}

    def take(self, page: Mapping[str, Any]) -> None:
        """An answer of GET /sessions."""
        self.sessions += [session_info(item) for item in page["sessions"]]
        self._cursor = page["next"]


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
