"""Writes TensorFlow checkpoints byte by byte, from the format's description and not from the reader."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Checksum = Callable[[bytes], int]

TYPE_NUMBERS = {"float32": 1, "int64": 9}


def slow_crc32c(data: bytes) -> int:
    """One bit at a time, straight from the definition."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def block(items: list[tuple[bytes, bytes]], restart_every: int = 16) -> bytes:
    """Sorted items with shared key prefixes, then the restart points and their count."""
    content, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(items):
        shared = 0
        if i % restart_every == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return content + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


class TableWriter:
    """A LevelDB table in memory."""

    def __init__(self) -> None:
        self.data = b""

    def add_block(self, content: bytes) -> bytes:
        """Append a block with type and checksum; returns its handle."""
        handle = varint(len(self.data)) + varint(len(content))
        content += b"\0"
        self.data += content + struct.pack("<I", masked(slow_crc32c(content)))
        return handle

    def finish(self, items: list[tuple[bytes, bytes]], per_block: int) -> bytes:
        """The whole table."""
        handles = []
        for start in range(0, len(items), per_block):
            part = items[start : start + per_block]
            handles.append((part[-1][0], self.add_block(block(part))))
        meta = self.add_block(block([]))
        footer = meta + self.add_block(block(handles, restart_every=1))
        return self.data + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(
    prefix: Path,
    variables: Mapping[str, NDArray[Any]],
    *,
    shards: int = 1,
    per_block: int = 40,
    checksum: Checksum = slow_crc32c,
) -> None:
    """`prefix`.index and its data files, the variables dealt out over the shards in turn."""
    data = [bytearray() for _ in range(shards)]
    version = message(3, number_field(1, 1))
    items = [(b"", number_field(1, shards) + version)]
    for i, name in enumerate(sorted(variables)):
        array = np.ascontiguousarray(variables[name])
        raw, shard = array.tobytes(), i % shards
        shape = b"".join(message(2, number_field(1, side)) for side in array.shape)
        entry = number_field(1, TYPE_NUMBERS[array.dtype.name]) + message(2, shape)
        entry += number_field(3, shard) + number_field(4, len(data[shard])) + number_field(5, len(raw))
        entry += varint(6 << 3 | 5) + struct.pack("<I", masked(checksum(raw)))
        data[shard] += raw
        items.append((name.encode(), entry))
    prefix.with_name(prefix.name + ".index").write_bytes(TableWriter().finish(items, per_block))
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
