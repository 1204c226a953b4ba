"""Real video files for the tests. Every frame carries its own index as a row of black and white blocks."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BITS = 10


def numbered_frame(index: int, height: int = 48, width: int = 80) -> NDArray[np.uint8]:
    """[H, W, 3] RGB: the index in binary along the top half, a grey ramp below."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None]
    for bit in range(_BITS):
        columns = slice(bit * width // _BITS, (bit + 1) * width // _BITS)
        frame[: height // 2, columns] = 255 if index >> bit & 1 else 0
    return frame


def index_of(rgb: NDArray[np.uint8]) -> int:
    """The index that a decoded frame shows."""
    height, width = rgb.shape[:2]
    centres = [(2 * bit + 1) * width // (2 * _BITS) for bit in range(_BITS)]
    return sum(int(rgb[height // 4, x].mean() > 127) << bit for bit, x in enumerate(centres))


def write_video(path: Path, count: int, **options: Any) -> Path:
    """A video of numbered frames. options: size, codec, container, keyframe_every, pts (list), aspect."""
    height, width = options.get("size", (48, 80))
    with av.open(str(path), "w", format=options.get("container", "mp4")) as container:
        stream = container.add_stream(options.get("codec", "libx264"), rate=25)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuvj420p" if stream.codec_context.name == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = options.get("keyframe_every", 12)
        if stream.codec_context.name == "libx264":
            stream.options = {"preset": "ultrafast", "bf": str(options.get("b_frames", 0)), "tune": "fastdecode"}
        if "aspect" in options:
            stream.codec_context.sample_aspect_ratio = options["aspect"]
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_frame(index, height, width), format="rgb24")
            frame.pts = options["pts"][index] if "pts" in options else index
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rotate(path: Path, quarter_turns: int) -> Path:
    """Write a display rotation into an MP4's track header: clockwise quarter turns."""
    data = bytearray(path.read_bytes())
    one = 1 << 16
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns % 4]
    matrix = [cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30]
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
    return path


def image_bytes(rgb: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """One image file."""
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, format=kind)
    return out.getvalue()


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    """A zip of named entries, in the order given."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def indices(frames: Iterator[Any]) -> list[int]:
    """The indices that frames show, having checked that they are the indices they claim."""
    shown = []
    for frame in frames:
        if index_of(frame.rgb) != frame.frame_index:
            raise AssertionError(f"frame {frame.frame_index} shows {index_of(frame.rgb)}")
        shown.append(frame.frame_index)
    return shown
