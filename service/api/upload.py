"""Multipart forms, parsed while they arrive: the video goes straight into storage, small parts into memory.

Every limit is a running count of what really came. Knows nothing of what the parts mean.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidInput, MalformedRequest, UnsupportedMedia, UploadTooLarge
from service.settings import MIB, Settings
from service.storage import FileWriter

_FLUSH_BYTES = 1 * MIB
_PICTURES = ("mask", "exemplar")
"""How the names of parts begin that may be large; a text is as long sent as a file as sent as a field."""


@dataclass(frozen=True)
class Part:
    """A small part, whole. `filename` is the client's word, never a path of ours."""

    name: str
    filename: str | None
    data: bytes

    @property
    def text(self) -> str:
        """The part as UTF-8. Raises MalformedRequest."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise MalformedRequest(f"the form field {self.name!r} is not UTF-8 text") from error


@dataclass
class Form:
    """A form as received. digest: SHA-256 over names and contents, whatever the boundary was."""

    parts: list[Part] = field(default_factory=list)
    video_bytes: int | None = None
    video_filename: str | None = None
    digest: str = ""

    def all(self, name: str) -> list[Part]:
        """Parts of one name, in order."""
        return [part for part in self.parts if part.name == name]

    def one(self, name: str) -> str | None:
        """The text of a field that may be given once; empty is the same as absent. Raises MalformedRequest."""
        found = self.all(name)
        if len(found) > 1:
            raise MalformedRequest(f"the form field {name!r} is given {len(found)} times; give it once")
        return (found[0].text.strip() or None) if found else None


class FormReader:
    """Feeds a body to python-multipart's push parser and keeps the limits."""

    def __init__(self, content_type: str, settings: Settings, video: FileWriter | None) -> None:
        """video: where the `video` part goes; None refuses one. Raises UnsupportedMedia, MalformedRequest."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise UnsupportedMedia(
                "send the request as multipart/form-data (curl -F video=@clip.mp4 -F mask=@mask.png)"
            )
        boundary = options.get(b"boundary")
        if not boundary:
            raise MalformedRequest("the Content-Type header names no multipart boundary")
        self._settings = settings
        self._video = video
        self._form = Form()
        self._hash = hashlib.sha256()
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._small_bytes = 0
        self._seen: Counter[str] = Counter()
        self._ended = False
        self._header_name, self._header_value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._filename: str | None = None
        self._data: list[bytes] = []
        self._data_bytes = 0
        try:
            self._parser = MultipartParser(boundary, self._callbacks())  # type: ignore[arg-type]
        except FormParserError as error:
            raise MalformedRequest(f"the multipart boundary cannot be used: {error}") from error

    async def read(self, chunks: AsyncIterator[bytes]) -> Form:
        """Parse the whole body. Raises UploadTooLarge, MalformedRequest, and what the writer raises."""
        try:
            async for chunk in chunks:
                self._parser.write(chunk)
                if self._unwritten_bytes >= _FLUSH_BYTES:
                    await self._flush()
            self._parser.finalize()
        except FormParserError as error:
            raise MalformedRequest(f"the multipart body is malformed: {error}") from error
        if not self._ended:
            raise MalformedRequest("the multipart body ends before its last boundary: the upload was cut off")
        await self._flush()
        self._form.digest = self._hash.hexdigest()
        return self._form

    async def _flush(self) -> None:
        data, self._unwritten, self._unwritten_bytes = b"".join(self._unwritten), [], 0
        if data and self._video is not None:
            await anyio.to_thread.run_sync(self._video.write, data)

    def _callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value_data,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._headers = {}
        self._data, self._data_bytes = [], 0
        if sum(self._seen.values()) >= self._settings.max_parts:
            raise UploadTooLarge(f"the form has more than {self._settings.max_parts} parts")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_data(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name, self._header_value = b"", b""

    def _headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise MalformedRequest("a part of the form has no `Content-Disposition: form-data; name=…` header")
        self._name = options[b"name"].decode("utf-8", "replace")
        filename = options.get(b"filename")
        self._filename = None if filename is None else filename.decode("utf-8", "replace")[:255]
        self._seen[self._name] += 1
        self._hash.update(b"\0part\0" + self._name.encode("utf-8", "replace") + b"\0")
        if self._is_video:
            self._begin_video()

    @property
    def _is_video(self) -> bool:
        return self._name == "video"

    def _begin_video(self) -> None:
        if self._video is None:
            raise InvalidInput("a video cannot be sent here; it belongs to POST /sessions")
        if self._seen["video"] > 1:
            raise MalformedRequest("the form has more than one `video` part; one session has one video")
        self._form.video_bytes = 0
        self._form.video_filename = self._filename

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        chunk = data[start:end]
        self._hash.update(chunk)
        if self._is_video:
            self._form.video_bytes = (self._form.video_bytes or 0) + len(chunk)
            self._unwritten.append(chunk)
            self._unwritten_bytes += len(chunk)
            return
        self._data.append(chunk)
        self._data_bytes += len(chunk)
        self._small_bytes += len(chunk)
        self._check_small()

    def _check_small(self) -> None:
        settings = self._settings
        is_picture = self._filename is not None and self._name.startswith(_PICTURES)
        limit = settings.max_mask_bytes if is_picture else settings.max_field_bytes
        if self._data_bytes > limit:
            raise UploadTooLarge(f"the part {self._name!r} is larger than {limit} bytes", limit_bytes=limit)
        if self._small_bytes > settings.max_reference_bytes:
            limit = settings.max_reference_bytes
            raise UploadTooLarge(f"all masks and fields together are larger than {limit} bytes", limit_bytes=limit)

    def _part_end(self) -> None:
        if not self._is_video:
            self._form.parts.append(Part(self._name, self._filename, b"".join(self._data)))
        self._data, self._data_bytes = [], 0

    def _end(self) -> None:
        self._ended = True
