"""A plain live client for tests: the messages of docs/api.md, one after the other, over a real socket."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.service.api_server import ApiServer, mask_png

SIZE = (48, 80)


def picture(index: int, size: tuple[int, int] = SIZE, kind: str = "PNG") -> bytes:
    """A frame that differs from all others."""
    rng = np.random.default_rng(index)
    pixels: NDArray[np.uint8] = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def mask_text(object_ids: tuple[int, ...] = (1,), size: tuple[int, int] = SIZE) -> str:
    """A mask in base64."""
    return base64.b64encode(mask_png(object_ids, size)).decode()


class LiveClient:
    """One connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def say(self, **message: Any) -> None:
        """A text message."""
        self.socket.send(json.dumps(message))

    def hear(self, kind: str | None = None) -> dict[str, Any]:
        """The next text message, or the next one of a kind."""
        while True:
            message: dict[str, Any] = json.loads(self.socket.recv(timeout=30))
            if kind is None or message["type"] == kind:
                return message

    def open(self, **fields: Any) -> dict[str, Any]:
        """Say `open`, give the answer to it."""
        self.say(type="open", **fields)
        return self.hear()

    def frames(self, first: int, last: int) -> None:
        """Send the pictures first..last."""
        for index in range(first, last + 1):
            self.socket.send(picture(index))

    def masks(self, count: int) -> list[dict[str, Any]]:
        """The next masks."""
        return [self.hear("mask") for _ in range(count)]

    def refusal(self) -> tuple[str, int]:
        """(detail of the error message, close code); whatever else comes before is passed over."""
        detail = ""
        try:
            while True:
                message = json.loads(self.socket.recv(timeout=30))
                if message["type"] == "error":
                    detail = message["problem"]["detail"]
        except ConnectionClosed as closed:
            return detail, closed.rcvd.code if closed.rcvd else 1006


@contextmanager
def live(api: ApiServer, **options: Any) -> Iterator[LiveClient]:
    """A connection to /live."""
    with connect(f"ws://127.0.0.1:{api.port}/live", compression=None, **options) as socket:
        yield LiveClient(socket)
