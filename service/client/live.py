"""What a live client says and remembers, as plain state: frames under way, acknowledgements, resuming. No connection.

docs/api.md has the messages. The pictures are kept until their masks are here, so that a lost connection loses none.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.client.arrays import mask_png, png, rgb_frame
from service.client.errors import ApiError
from service.client.forms import PICTURES, MaskInput
from service.client.wire import MaskFrame, log_warnings

Picture = NDArray[np.uint8] | bytes
Policy = Literal["all", "latest"]
DEFAULT_WINDOW = 16
_KEPT_LATEST = 64
END_MESSAGE = json.dumps({"type": "end"})


@dataclass(frozen=True)
class LiveFrame:
    """One frame to send. image: [H, W, 3] uint8 RGB, or an encoded JPEG or PNG.

    pts_s: its time, which its mask repeats. masks and references: what you know of it; references are the fields of
    create_session() (box, point, text, references, …).
    """

    image: Picture
    pts_s: float | None = None
    masks: MaskInput | Sequence[MaskInput] | None = None
    references: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoded:
    """A frame ready to be sent: a `frame` message and the picture."""

    pts_s: float
    image: Picture
    messages: tuple[str, bytes]


class LiveTalk:
    """One live session as its client knows it, over any number of connections. Safe to call from two threads.

    options: further fields of `open`. quality: of the JPEGs that arrays become; None sends PNG, without loss.
    """

    def __init__(
        self,
        masks: MaskInput | Sequence[MaskInput] | None,
        *,
        policy: Policy,
        window: int,
        quality: int | None,
        options: Mapping[str, Any],
    ) -> None:
        self.session_id: str | None = None
        self.ended = False
        self._open = {"policy": policy, "window": window, **_references(masks, options)}
        self._policy = policy
        self._window = window
        self._quality = quality
        self._kept: deque[tuple[int, Encoded]] = deque()
        self._next_index = 0
        self._last_seq = -1
        self._acknowledged = 0
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def opening(self) -> str:
        """The first message of a connection."""
        if self.session_id is None or not self._next_index:
            return json.dumps({"type": "open", **self._open})
        return json.dumps({"type": "open", "session_id": self.session_id, "after": self._last_seq})

    def resumed(self, text: str | bytes) -> list[str | bytes]:
        """Take the answer to `open`; gives the messages that have to be sent again. Raises ApiError."""
        ready = json.loads(text)
        if ready["type"] == "error":
            if ready["problem"].get("status") == 404 and self._last_seq < 0:
                self.session_id = None  # the connection broke before its first frame arrived: begin again
                raise ConnectionError("the session has not begun yet")
            raise ApiError(ready["problem"])
        log_warnings(ready)
        with self._lock:
            self.session_id = str(ready["session_id"])
            again = self._policy == "all"
            missing = [frame for index, frame in self._kept if again and index >= int(ready["next_frame_index"])]
        found: list[str | bytes] = [message for frame in missing for message in frame.messages]
        return [*found, END_MESSAGE] if self.ended else found

    def has_room(self) -> bool:
        """Whether another frame may be sent now."""
        return self._policy == "latest" or self._next_index - self._acknowledged < self._window

    def encoded(self, frame: LiveFrame | Picture) -> Encoded:
        """A frame as its two messages. Raises ClientError for what is no picture."""
        given = frame if isinstance(frame, LiveFrame) else LiveFrame(frame)
        pts_s = time.monotonic() - self._began if given.pts_s is None else float(given.pts_s)
        fields = _references(given.masks, given.references)
        note = json.dumps({"type": "frame", "pts_s": pts_s, **fields})
        image = given.image if isinstance(given.image, bytes) else encode(given.image, self._quality)
        return Encoded(pts_s, given.image, (note, image))

    def keep(self, frame: Encoded) -> None:
        """The frame is about to be sent: from now on a new connection sends it again if the server lacks it."""
        with self._lock:
            self._kept.append((self._next_index, frame))
            self._next_index += 1
            if self._policy == "latest" and len(self._kept) > _KEPT_LATEST:
                self._kept.popleft()

    def end(self) -> None:
        """No more frames: every new connection says so again."""
        self.ended = True

    def received(self, mask: MaskFrame) -> tuple[MaskFrame, str]:
        """The mask with the picture that it belongs to, and its acknowledgement."""
        image: Picture | None = None
        with self._lock:
            self._last_seq = mask.seq
            if any(frame.pts_s == mask.pts_s for _, frame in self._kept):
                while (frame := self._kept.popleft()[1]).pts_s != mask.pts_s:
                    pass
                image = frame.image
        return replace(mask, image=image), json.dumps({"type": "ack", "seq": mask.seq})

    def acknowledged(self, mask: MaskFrame) -> None:
        """The acknowledgement has been sent; only now is there room, because the server reads in order."""
        self._acknowledged = mask.seq + 1


def encode(image: NDArray[np.uint8], quality: int | None) -> bytes:
    """[H, W, 3] uint8 RGB as JPEG, or as PNG where quality is None."""
    rgb_frame(image)
    if quality is None:
        return png(image)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _references(masks: MaskInput | Sequence[MaskInput] | None, others: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `open` and `frame`; files as base64."""
    fields = {name: value for name, value in others.items() if value is not None}
    fields |= fields.pop("files", {})
    for name, value in fields.items():
        if name in PICTURES or isinstance(value, bytes | Path | np.ndarray):
            several = value if isinstance(value, list | tuple) else [value]
            fields[name] = [_base64(each) for each in several] if name in PICTURES else _base64(value)
    if masks is not None:
        each: Sequence[Any] = masks if isinstance(masks, list | tuple) else [masks]
        fields["mask"] = [_base64(mask) for mask in each]
    return fields


def _base64(mask: MaskInput) -> str:
    if isinstance(mask, bytes):
        data = mask
    else:
        data = Path(mask).read_bytes() if isinstance(mask, str | Path) else mask_png(mask)
    return base64.b64encode(data).decode()
