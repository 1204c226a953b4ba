"""Numbered images as a video: a folder or a zip, read in place; nothing is ever extracted to a file."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import DecodeFailed, UnreadableVideo
from service.media.reader import MediaLimits, VideoFrame, VideoInfo, check_length, check_size

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))
FPS = 24.0
"""Images carry no times; this is the rate that their `pts_s` is counted with."""
ZIP = "zip file"
"""What describe() calls the container of zipped images."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_MAX_IMAGE_BYTES = 64 * 1024**2
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow and zipfile raise for files that are broken or hostile."""


class ImageReader:
    """Images in the order of the numbers in their names."""

    def __init__(self, names: Sequence[str], read: Callable[[str], bytes], kind: str, limits: MediaLimits) -> None:
        """names: any order; read: the bytes of one. Raises UnreadableVideo."""
        self._names = sorted(names, key=_natural_order)
        self._read = read
        self._kind = kind
        self._limits = limits
        if not names:
            raise UnreadableVideo(f"the {kind} holds no images ({', '.join(sorted(SUFFIXES))})")
        check_length(len(names), len(names) / FPS, limits)
        try:
            self._codec, first = self._load(0)
        except DecodeFailed as error:
            raise UnreadableVideo(error.detail) from error
        self.size = (first.height, first.width)
        check_size(self.size, limits)

    @classmethod
    def of_folder(cls, folder: Path, limits: MediaLimits) -> ImageReader:
        """The images directly in a folder."""
        names = [item.name for item in folder.iterdir() if item.is_file() and _is_image(item.name)]
        return cls(names, lambda name: _read_bounded(folder / name), "folder", limits)

    @classmethod
    def of_zip(cls, path: Path, limits: MediaLimits) -> ImageReader:
        """The images in a zip; all must lie in one of its folders. Names inside never become paths of ours."""
        try:
            archive = zipfile.ZipFile(path)
        except DAMAGED as error:
            raise UnreadableVideo(f"the zip file is damaged ({error})") from error
        infos = [info for info in archive.infolist() if not info.is_dir() and _is_image(info.filename)]
        if any(info.flag_bits & 1 for info in infos):
            raise UnreadableVideo("the zip file is encrypted; send it without a password")
        folders = {str(PurePosixPath(info.filename).parent) for info in infos}
        if len(folders) > 1:
            raise UnreadableVideo(f"the zip file has images in {len(folders)} folders; put the frames in one")
        if len({info.filename for info in infos}) != len(infos):
            raise UnreadableVideo("the zip file names some images twice")

        def read(name: str) -> bytes:
            with archive.open(name) as file:
                return file.read(_MAX_IMAGE_BYTES + 1)

        return cls([info.filename for info in infos], read, ZIP, limits)

    def describe(self) -> VideoInfo:
        """Counted from the names."""
        count, (height, width) = len(self._names), self.size
        return VideoInfo(height, width, count, FPS, count / FPS, self._kind, self._codec, 0)

    def frames(self, start: int, size: tuple[int, int]) -> Iterator[VideoFrame]:
        """Each image with its EXIF orientation applied. Raises DecodeFailed for one that is damaged or differs."""
        for index in range(start, len(self._names)):
            _, image = self._load(index)
            if (image.height, image.width) != self.size:
                raise DecodeFailed(
                    f"frame {index} ({_shown(self._names[index])}) is {image.height}x{image.width}; the first is "
                    f"{self.size[0]}x{self.size[1]}",
                    frame_index=index,
                )
            if size != self.size:
                image = image.resize(size[::-1], Image.Resampling.BOX)
            yield VideoFrame(index, index / FPS, np.asarray(image, dtype=np.uint8))

    def _load(self, index: int) -> tuple[str, Image.Image]:
        name = self._names[index]
        try:
            data = self._read(name)
            if len(data) > _MAX_IMAGE_BYTES:
                raise ValueError(f"larger than {_MAX_IMAGE_BYTES // 1024**2} MiB")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                check_size((image.height, image.width), self._limits)
                if image.mode.startswith(("I", "F")):
                    raise ValueError("16-bit and float images are not supported; save it with 8 bits per channel")
                return str(image.format).lower(), ImageOps.exif_transpose(image).convert("RGB")
        except (*DAMAGED, UnreadableVideo) as error:
            unknown = isinstance(error, UnidentifiedImageError)
            reason = f"its content is none of {', '.join(_FORMATS)}, or it is damaged" if unknown else error
            detail = f"frame {index} ({_shown(name)}) is not a readable image: {reason}"
            raise DecodeFailed(detail, frame_index=index) from error


def frame_names(path: Path) -> list[str]:
    """File names of a zip's images in the order of the frames, made harmless; none when two frames would share one.

    path: a zip that was probed before. Raises UnreadableVideo.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [info.filename for info in archive.infolist() if not info.is_dir() and _is_image(info.filename)]
    except DAMAGED as error:
        raise UnreadableVideo(f"the zip file is damaged ({error})") from error
    ordered = [PurePosixPath(name).name for name in sorted(inside, key=_natural_order)]
    names = [re.sub(r"[^\w .()-]", "_", name).lstrip(".") for name in ordered]
    return names if len({PurePosixPath(name).stem for name in names}) == len(names) else []


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_IMAGE_BYTES + 1)


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _natural_order(name: str) -> tuple[list[int | str], str]:
    """frame_10 after frame_9."""
    parts = re.split(r"(\d+)", PurePosixPath(name).stem)
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], name


def _shown(name: str) -> str:
    """A name from inside an upload, safe to repeat in a message."""
    return ascii(PurePosixPath(name).name)[:80]
