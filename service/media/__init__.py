"""Reading videos: containers and numbered images, as displayed, one frame index from 0.

Runs inside child processes (`service.worker.decode`, `service.media.probe`): av, numpy and, for images, Pillow.
"""

from __future__ import annotations

from pathlib import Path

from service.errors import UnreadableVideo
from service.media.containers import ContainerReader
from service.media.images import ImageReader
from service.media.reader import FrameReader, MediaLimits

__all__ = ["FrameReader", "MediaLimits", "open_media"]

_ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
"""Of a zip's first entry, and of one without any."""
_PICTURES = {b"GIF8": "GIF", b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}


def open_media(path: Path, limits: MediaLimits) -> FrameReader:
    """Open a container, a zip of numbered images, or a folder of them; the content decides, never the name.

    Raises UnreadableVideo or UnsupportedMedia.
    """
    if path.is_dir():
        return ImageReader.of_folder(path, limits)
    with path.open("rb") as file:
        start = file.read(4)
    if start in _ZIP_SIGNATURES:
        return ImageReader.of_zip(path, limits)
    _refuse_picture(start)
    return ContainerReader(path, limits)


def _refuse_picture(start: bytes) -> None:
    """Raise UnreadableVideo for what is often sent in place of a video."""
    name = next((name for signature, name in _PICTURES.items() if start.startswith(signature)), None)
    if name == "GIF":
        raise UnreadableVideo("the file is a GIF; make a video of it first: ffmpeg -i name.gif name.mp4")
    if name is not None:
        raise UnreadableVideo(f"the file is a single {name} picture; send a video, or numbered pictures in a zip")
