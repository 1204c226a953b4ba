"""H.264 video files, written frame by frame. Knows nothing of masks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]


class VideoWriter:
    """Writes [H, W, 3] RGB frames as an H.264 MP4 that browsers play.

    Odd sizes lose their last row or column: the 4:2:0 format has even sides. The file appears under its name only
    when it is whole, at close(); leaving the block by an error removes what was begun.
    """

    def __init__(self, path: Path, fps: float, *, lossless: bool = False) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        self._rate = Fraction(fps).limit_denominator(1001)
        self._quality = "0" if lossless else "20"
        self._stream: av.VideoStream | None = None

    def write(self, frame: Frame) -> None:
        """Append one frame; the first decides the size."""
        height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
        stream = self._stream or self._open_stream(height, width)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
        for packet in stream.encode(picture):
            self._container.mux(packet)

    def close(self) -> None:
        """Finish the file and put it in its place."""
        if self._stream is not None:
            for packet in self._stream.encode(None):
                self._container.mux(packet)
        self._container.close()
        self._part.replace(self._path)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._container.close()
            self._part.unlink(missing_ok=True)

    def _open_stream(self, height: int, width: int) -> av.VideoStream:
        stream = self._container.add_stream("libx264", rate=self._rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": self._quality}
        self._stream = stream
        return stream
