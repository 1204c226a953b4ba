"""What a reader of videos promises, and the limits it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import UnreadableVideo

if TYPE_CHECKING:  # the children that import this module need no pydantic
    from service.settings import Settings


@dataclass(frozen=True)
class MediaLimits:
    """Bounds that hold for what is decoded, whatever the headers say."""

    max_pixels: int
    min_side: int
    max_frames: int
    max_duration_s: float


def media_limits(settings: Settings) -> MediaLimits:
    """The bounds that the settings name."""
    return MediaLimits(settings.max_pixels, settings.min_side, settings.max_frames, settings.max_duration_s)


@dataclass(frozen=True)
class VideoFrame:
    """frame_index from 0 in display order; pts_s from the start of the video; rgb [H, W, 3] uint8."""

    frame_index: int
    pts_s: float
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class VideoInfo:
    """What an upload is. height and width as displayed; frames counted from packets or files, not from headers."""

    height: int
    width: int
    frames: int
    fps: float
    duration_s: float
    container: str
    codec: str
    rotation: int


class FrameReader(Protocol):
    """An opened video."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as displayed."""
        ...

    def describe(self) -> VideoInfo:
        """Look through the whole file without decoding it. Raises UnreadableVideo past a limit."""
        ...

    def frames(self, start: int, size: tuple[int, int]) -> Iterator[VideoFrame]:
        """Frames from index `start` on, scaled to `size`. Raises DecodeFailed with the frame's index."""
        ...


def scaled_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """`size` shrunk so that its longer side is at most `max_side`; never enlarged, never under one pixel."""
    longer = max(size)
    if max_side is None or longer <= max_side:
        return size
    return max(1, round(size[0] * max_side / longer)), max(1, round(size[1] * max_side / longer))


def check_size(size: tuple[int, int], limits: MediaLimits) -> None:
    """Raise UnreadableVideo for frames that are too large or too small."""
    height, width = size
    if height * width > limits.max_pixels:
        raise UnreadableVideo(
            f"frames are {height}x{width} = {height * width} pixels; at most {limits.max_pixels} are allowed. Scale "
            "the video down"
        )
    if min(size) < limits.min_side:
        raise UnreadableVideo(f"frames are {height}x{width}; each side must be at least {limits.min_side} pixels")


def check_length(frames: int, duration_s: float, limits: MediaLimits) -> None:
    """Raise UnreadableVideo for videos that are too long."""
    if frames > limits.max_frames:
        raise UnreadableVideo(f"the video has more than {limits.max_frames} frames; cut it or lower its frame rate")
    if duration_s > limits.max_duration_s:
        raise UnreadableVideo(f"the video lasts {duration_s:.0f} s; at most {limits.max_duration_s:.0f} s are allowed")
