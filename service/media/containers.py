"""Video containers through FFmpeg: allow-listed formats and codecs, no network, no nested files, bounded pixels."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from service.errors import DecodeFailed, UnreadableVideo, UnsupportedMedia
from service.media.reader import MediaLimits, VideoFrame, VideoInfo, check_length, check_size

FORMATS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "ogg", "flv")
CODECS = frozenset(
    ("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "prores", "ffv1", "theora")
)
_DECODERS = (*sorted(CODECS), "libdav1d", "libaom-av1", "libvpx", "libvpx-vp9")
_DECODE_UP_TO = 300
"""Seeks to an earlier frame than this decode from the start: always exact, and as fast."""


class ContainerReader:
    """One video stream of one container. Opens the file again for every pass, so passes never disturb each other."""

    def __init__(self, path: Path, limits: MediaLimits) -> None:
        """Decode the first frame to learn the displayed size. Raises UnreadableVideo, UnsupportedMedia."""
        self._path = path
        self._limits = limits
        with self._open() as container:
            stream = container.streams.video[0]
            first = self._first_frame(container, stream)
            self._rotation = int(first.rotation) % 360 // 90 * 90
            self._aspect = Fraction(stream.sample_aspect_ratio or 1)
            self._codec = str(stream.codec_context.codec.canonical_name)
            self._container = str(container.format.name)
            self.size = self._displayed(first.height, first.width)
        check_size(self.size, limits)

    def describe(self) -> VideoInfo:
        """Count packets; frames of an edit list's cut-off part are not shown and not counted."""
        with self._open() as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            last, first = 0.0, None
            count = 0
            try:
                for packet in container.demux(stream):
                    if packet.size == 0 or packet.is_discard:
                        continue
                    count += 1
                    if packet.pts is not None and packet.time_base:
                        time_s = float(packet.pts * packet.time_base)
                        first = time_s if first is None else min(first, time_s)
                        last = max(last, time_s)
                    check_length(count, last - (first or 0.0), self._limits)
            except av.FFmpegError:
                pass  # a damaged tail: its frames are found out by decoding, and end the session there
        duration_s = last - (first or 0.0) + (1 / rate if rate else 0.0)
        height, width = self.size
        fps = rate or (count / duration_s if duration_s else 0.0)
        return VideoInfo(height, width, count, fps, duration_s, self._container, self._codec, self._rotation)

    def frames(self, start: int, size: tuple[int, int]) -> Iterator[VideoFrame]:
        """Frames from `start` on. Seeks only where presentation times number the frames without doubt."""
        target_pts = self._pts_of(start) if start > _DECODE_UP_TO else None
        if target_pts is not None:
            found = False
            for frame in self._pass(start, size, seek_to=target_pts):
                found = True
                yield frame
            if found:
                return
        yield from self._pass(start, size, seek_to=None)

    def _pass(self, start: int, size: tuple[int, int], *, seek_to: int | None) -> Iterator[VideoFrame]:
        """Decode from the file's start or from the key frame before `seek_to`; nothing is yielded if that misses."""
        index = 0
        with self._open() as container:
            stream = container.streams.video[0]
            origin = stream.start_time or 0
            if seek_to is not None:
                container.seek(seek_to, stream=stream, backward=True)
            try:
                for decoded in container.decode(stream):
                    if seek_to is not None:
                        if decoded.pts is None or decoded.pts > seek_to:
                            return
                        if decoded.pts < seek_to:
                            continue
                        index, seek_to = start, None
                    if index >= start:
                        yield self._convert(decoded, index, origin, size)
                    index += 1
            except av.FFmpegError as error:
                raise DecodeFailed(f"frame {index} cannot be decoded: {error.strerror}", frame_index=index) from error
        if index == 0 and seek_to is None:
            raise DecodeFailed("no frame can be decoded", frame_index=0)

    def _convert(self, decoded: Any, index: int, origin: int, size: tuple[int, int]) -> VideoFrame:
        height, width = size if self._rotation % 180 == 0 else size[::-1]
        rgb = decoded.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
        rgb = np.ascontiguousarray(np.rot90(rgb, self._rotation // 90))
        time_s = float((decoded.pts - origin) * decoded.time_base) if decoded.pts is not None else 0.0
        return VideoFrame(index, time_s, rgb)

    def _pts_of(self, index: int) -> int | None:
        """The presentation time of frame `index`, or None where packets do not number the frames one to one."""
        times: list[int] = []
        with self._open() as container:
            stream = container.streams.video[0]
            try:
                for packet in container.demux(stream):
                    if packet.size == 0:
                        continue
                    if packet.pts is None or packet.is_discard or packet.is_corrupt:
                        return None
                    if not times and not packet.is_keyframe:
                        return None
                    times.append(packet.pts)
            except av.FFmpegError:
                return None
        times.sort()
        doubtful = len(set(times)) != len(times) or index >= len(times)
        return None if doubtful else times[index]

    def _displayed(self, height: int, width: int) -> tuple[int, int]:
        width = max(1, round(width * self._aspect))
        return (height, width) if self._rotation % 180 == 0 else (width, height)

    def _open(self) -> Any:
        options = {
            "format_whitelist": ",".join(FORMATS),
            "codec_whitelist": ",".join(_DECODERS),
            "protocol_whitelist": "file",
            "max_pixels": str(self._limits.max_pixels),
        }
        try:
            container = av.open(f"file:{self._path.resolve()}", options=options, metadata_errors="ignore")
        except (av.FFmpegError, ValueError) as error:
            raise _not_opened(error) from error
        if not container.streams.video:
            kinds = sorted({str(stream.type) for stream in container.streams}) or ["none at all"]
            container.close()
            raise UnreadableVideo(f"the file has no video stream (streams found: {', '.join(kinds)})")
        self._prepare(container)
        return container

    def _prepare(self, container: Any) -> None:
        stream = container.streams.video[0]
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
        if codec not in CODECS:
            container.close()
            raise UnsupportedMedia(f"the video codec {codec} is not supported; use one of {', '.join(sorted(CODECS))}")
        stream.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
        stream.codec_context.thread_count = 2

    def _first_frame(self, container: Any, stream: Any) -> Any:
        declared = (stream.codec_context.height, stream.codec_context.width)
        if all(declared):
            check_size((max(declared[0], self._limits.min_side), max(declared[1], self._limits.min_side)), self._limits)
        try:
            for frame in container.decode(stream):
                return frame
        except (av.FFmpegError, ValueError) as error:
            raise UnreadableVideo(f"the first frame cannot be decoded: {error}") from error
        raise UnreadableVideo("the video has no frames")


def _not_opened(error: Exception) -> Exception:
    """A refusal by the format list or by FFmpeg, in words that help."""
    supported = (
        "MP4/MOV, Matroska/WebM, AVI, MPEG-TS, MPEG-PS, Ogg, FLV, or a zip of numbered JPEG, PNG, WebP or BMP images"
    )
    if isinstance(error, (av.error.InvalidDataError, av.error.PermissionError, av.error.ArgumentError, ValueError)):
        return UnreadableVideo(f"the file is not a readable video: it is damaged, truncated, or none of {supported}")
    return UnreadableVideo(f"the file cannot be opened as a video ({error}); supported: {supported}")
