"""Reads TensorFlow's checkpoint files ("tensor bundle", version 2) without TensorFlow.

A bundle is `PREFIX.index` and `PREFIX.data-00000-of-0000N`. The index is a LevelDB table: sorted keys in blocks with
shared prefixes, a block of block handles, a footer. Its values are protocol buffers that say where in which data file
a tensor's raw bytes lie. Knows nothing of any network.
"""

from __future__ import annotations

import hashlib
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.errors import WeightsError
from engines.feelvos.crc32c import crc32c, unmask

_FOOTER_BYTES = 48
_BLOCK_TRAILER_BYTES = 5
_MAGIC = 0xDB4775248B80FB57
_DTYPES: dict[int, np.dtype[np.generic]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    19: np.dtype("<f2"),
}

ReadFile = Callable[[str], bytes]
"""From the ending of a bundle's file name (".index", ".data-00000-of-00001") to its bytes."""


@dataclass(frozen=True)
class BundleEntry:
    """Where one tensor lies. dtype is TensorFlow's number for it."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size_bytes: int
    checksum: int | None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned varint and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and raw value of each field of a protocol buffer message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, position = _varint(message, position)
        elif kind == 2:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, position = int.from_bytes(message[position : position + width], "little"), position + width
        else:
            raise WeightsError(f"the checkpoint's index holds a field of unknown kind {kind}; the file is damaged")
        yield tag >> 3, value


def _numbers(message: bytes) -> dict[int, int]:
    """The integer fields of a message; the last of each number counts."""
    return {number: value for number, value in _fields(message) if isinstance(value, int)}


def _parse_shape(message: bytes) -> tuple[int, ...]:
    return tuple(
        _numbers(value).get(1, 0) for number, value in _fields(message) if number == 2 and isinstance(value, bytes)
    )


def _parse_entry(message: bytes) -> BundleEntry:
    numbers = _numbers(message)
    shape: tuple[int, ...] = ()
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            shape = _parse_shape(value)
        elif number == 7:
            raise WeightsError("the checkpoint stores a variable in slices, which this reader does not join")
    return BundleEntry(
        dtype=numbers.get(1, 0),
        shape=shape,
        shard=numbers.get(3, 0),
        offset=numbers.get(4, 0),
        size_bytes=numbers.get(5, 0),
        checksum=numbers.get(6),
    )


def _read_block(table: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _BLOCK_TRAILER_BYTES > len(table):
        raise WeightsError("the checkpoint's index file is cut short; fetch it again")
    if table[end] != 0:
        raise WeightsError("the checkpoint's index is compressed, which TensorFlow does not do when it saves")
    if unmask(int.from_bytes(table[end + 1 : end + 5], "little")) != crc32c(table[offset : end + 1]):
        raise WeightsError("the checkpoint's index file is damaged (its checksum differs); fetch it again")
    return table[offset:end]


def _block_items(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; each key repeats the start of the one before it."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, block[position : position + length]
        position += length


def _table_items(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Everything in a LevelDB table, in the order of its keys."""
    if len(table) < _FOOTER_BYTES or struct.unpack("<Q", table[-8:])[0] != _MAGIC:
        raise WeightsError("this is not a TensorFlow checkpoint index: its last eight bytes are not the format's mark")
    footer = table[-_FOOTER_BYTES:]
    _, position = _varint(footer, 0)
    _, position = _varint(footer, position)
    offset, position = _varint(footer, position)
    size, _ = _varint(footer, position)
    for _, handle in _block_items(_read_block(table, offset, size)):
        start, position = _varint(handle, 0)
        yield from _block_items(_read_block(table, start, _varint(handle, position)[0]))


class TensorBundle:
    """An open checkpoint: names, shapes, and each tensor on demand."""

    def __init__(self, read_file: ReadFile) -> None:
        """read_file: gives the bytes of the file with a given ending. Raises WeightsError."""
        self._read_file = read_file
        index = read_file(".index")
        self.sha256 = hashlib.sha256(index).hexdigest()  # the index holds a checksum of every tensor
        try:
            items = dict(_table_items(index))
        except IndexError as error:
            raise WeightsError("the checkpoint's index file is damaged; fetch it again") from error
        header = _numbers(items.pop(b"", b""))
        if header.get(2, 0) != 0:
            raise WeightsError("the checkpoint was written on a big-endian machine, which this reader does not turn")
        self._shards = header.get(1, 1)
        self._data: dict[int, memoryview] = {}
        self.entries = {key.decode(): _parse_entry(value) for key, value in items.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def read(self, name: str) -> NDArray[np.generic]:
        """One variable in TensorFlow's layout. Raises WeightsError, KeyError."""
        entry = self.entries[name]
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            raise WeightsError(f"variable {name!r} has TensorFlow's type number {entry.dtype}, not a plain number type")
        raw = self._shard(entry.shard)[entry.offset : entry.offset + entry.size_bytes]
        count = int(np.prod(entry.shape, dtype=np.int64))
        if len(raw) != entry.size_bytes or count * dtype.itemsize != entry.size_bytes:
            raise WeightsError(f"the checkpoint's data file is cut short at variable {name!r}; fetch it again")
        if entry.checksum is not None and unmask(entry.checksum) != crc32c(raw):
            raise WeightsError(f"variable {name!r} is damaged (its checksum differs); fetch the checkpoint again")
        return np.frombuffer(raw, dtype=dtype).reshape(entry.shape)

    def _shard(self, number: int) -> memoryview:
        if number not in self._data:
            ending = f".data-{number:05d}-of-{self._shards:05d}"
            self._data[number] = memoryview(self._read_file(ending))
        return self._data[number]


def is_bundle(path: Path) -> bool:
    """Whether `path` can be given to open_bundle(): a prefix, one of its files, a folder with one, or an archive."""
    try:
        return path.name.endswith((".tar.gz", ".tgz")) or _prefix(path) is not None
    except WeightsError:
        return True


def open_bundle(path: Path) -> TensorBundle:
    """Open a checkpoint by its prefix, its index or data file, its folder, or the .tar.gz it is published in.

    Raises WeightsError.
    """
    if path.name.endswith((".tar.gz", ".tgz")):
        return TensorBundle(_archive_reader(path))
    prefix = _prefix(path)
    if prefix is None:
        raise WeightsError(f"{path} is no TensorFlow checkpoint: there is no {path.name}.index beside it")

    def read_file(ending: str) -> bytes:
        file = prefix.with_name(prefix.name + ending)
        try:
            return file.read_bytes()
        except OSError as error:
            raise WeightsError(f"cannot read {file}: {error.strerror}") from error

    return TensorBundle(read_file)


def _prefix(path: Path) -> Path | None:
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise WeightsError(f"{path} holds several checkpoints ({names}); name one")
        return found[0].with_suffix("") if found else None
    name = path.name.removesuffix(".index").partition(".data-")[0]
    return path.with_name(name) if path.with_name(name + ".index").is_file() else None


def _archive_reader(path: Path) -> ReadFile:
    """Reads members of the one checkpoint in a tar archive, without unpacking it to disk."""

    def read_file(ending: str) -> bytes:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.name.endswith(ending) else None
                    if file is not None:
                        return file.read()
        except (OSError, EOFError, tarfile.TarError) as error:
            raise WeightsError(f"cannot read the archive {path}: {error}") from error
        raise WeightsError(f"the archive {path} holds no file that ends in {ending}")

    return read_file
