"""What every export is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from service.schemas import MaskEvent

Masks = Callable[[], Iterator[MaskEvent]]
"""Gives the session's masks in frame order, one event per frame; may be called several times."""


@dataclass(frozen=True)
class ExportInfo:
    """Facts of the session that stand in exported files.

    objects: id -> name. frame_names: original names of an image sequence by frame index; empty for a video file.
    """

    session_id: str
    video_name: str
    height: int
    width: int
    objects: Mapping[int, str]
    frame_names: Mapping[int, str] = field(default_factory=dict)

    def frame_stem(self, frame_index: int) -> str:
        """Name of a frame without suffix: the original one, or five digits as DAVIS has them."""
        name = self.frame_names.get(frame_index)
        return PurePosixPath(name).stem if name else f"{frame_index:05d}"

    def image_name(self, frame_index: int) -> str:
        """File name of a frame's picture."""
        return self.frame_names.get(frame_index) or f"{frame_index:05d}.jpg"
