"""Reading videos: containers and numbered images, as displayed, one frame index from 0.

Runs inside child processes (`service.worker.decode`, `service.media.probe`): av, numpy and, for images, Pillow.
"""

from __future__ import annotations

from pathlib import Path

from service.media.containers import ContainerReader
from service.media.images import ImageReader
from service.media.reader import FrameReader, MediaLimits

__all__ = ["FrameReader", "MediaLimits", "open_media"]

_ZIP_SIGNATURE = b"PK\x03\x04"


def open_media(path: Path, limits: MediaLimits) -> FrameReader:
    """Open a container, a zip of numbered images, or a folder of them; the content decides, never the name.

    Raises UnreadableVideo or UnsupportedMedia.
    """
    if path.is_dir():
        return ImageReader.of_folder(path, limits)
    with path.open("rb") as file:
        start = file.read(4)
    if start == _ZIP_SIGNATURE:
        return ImageReader.of_zip(path, limits)
    return ContainerReader(path, limits)
