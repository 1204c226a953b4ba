"""H.264 video, written frame by frame to a file or as a stream. Knows nothing of masks."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from numpy.typing import NDArray

from service.drain import Drain

Frame = NDArray[np.uint8]
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


class _Encoder:
    """Encodes [H, W, 3] RGB frames into a container; the first frame decides the size.

    Odd sizes lose their last row or column: the 4:2:0 format has even sides.
    """

    def __init__(self, container: av.container.OutputContainer, fps: float) -> None:
        self._container = container
        self._rate = Fraction(fps).limit_denominator(1001)
        self._stream: av.VideoStream | None = None

    def write(self, frame: Frame) -> None:
        height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
        stream = self._stream or self._open_stream(height, width)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
        for packet in stream.encode(picture):
            self._container.mux(packet)

    def close(self) -> None:
        if self._stream is not None:
            for packet in self._stream.encode(None):
                self._container.mux(packet)
        self._container.close()

    def abort(self) -> None:
        self._container.close()

    def _open_stream(self, height: int, width: int) -> av.VideoStream:
        stream = self._container.add_stream("libx264", rate=self._rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20"}
        self._stream = stream
        return stream


class VideoWriter:
    """Writes an H.264 MP4 file that browsers play.

    The file appears under its name only when it is whole; leaving the block by an error removes what was begun.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        container = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        self._encoder = _Encoder(container, fps)

    def write(self, frame: Frame) -> None:
        """Append one [H, W, 3] RGB frame; odd sizes lose their last row or column."""
        self._encoder.write(frame)

    def close(self) -> None:
        """Finish the file and put it in its place."""
        self._encoder.close()
        self._part.replace(self._path)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._encoder.abort()
            self._part.unlink(missing_ok=True)


def stream_video(frames: Iterator[Frame], fps: float) -> Iterator[bytes]:
    """Chunks of a fragmented H.264 MP4, which plays while it is still being made."""
    drain = Drain()
    encoder = _Encoder(av.open(drain, "w", format="mp4", options=_FRAGMENTED), fps)
    for frame in frames:
        encoder.write(frame)
        if chunk := drain.take():
            yield chunk
    encoder.close()
    yield drain.take()
