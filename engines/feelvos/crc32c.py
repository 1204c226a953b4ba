"""CRC-32C (Castagnoli), the checksum of TensorFlow's checkpoints.

The textbook table method takes one Python step per byte. Here long inputs are cut into equal lanes that NumPy steps
together, and the lanes' checksums are joined by the linear map that appending zeros has on a checksum.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_MOST_LANES = 4096


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint32]:
    """[256] what one byte does to a checksum register."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(_POLYNOMIAL), table >> np.uint32(1))
    return table


def _step(register: NDArray[np.uint32], data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Feed each lane its column of `data` [lanes, length]; register: [lanes]."""
    table = _table()
    for column in np.ascontiguousarray(data.T):
        register = table[(register ^ column) & np.uint32(0xFF)] ^ (register >> np.uint32(8))
    return register


def _apply(columns: list[int], value: int) -> int:
    """A linear map over bits, given by the images of the 32 single bits."""
    result = 0
    for bit, column in enumerate(columns):
        if value >> bit & 1:
            result ^= column
    return result


@lru_cache(maxsize=256)
def _zeros(length: int) -> list[int]:
    """The map that `length` zero bytes are to a register, by repeated squaring."""
    table = _table().tolist()
    power = [table[(1 << bit) & 0xFF] ^ ((1 << bit) >> 8) for bit in range(32)]
    result = [1 << bit for bit in range(32)]
    while length:
        if length & 1:
            result = [_apply(power, column) for column in result]
        power = [_apply(power, column) for column in power]
        length >>= 1
    return result


def crc32c(data: bytes | memoryview) -> int:
    """The CRC-32C of `data`."""
    array = np.frombuffer(data, dtype=np.uint8)
    # Steps are as many as a lane is long, joins as many as there are lanes: about the square root of each is fastest.
    lanes = min(_MOST_LANES, 1 << array.size.bit_length() // 2)
    length = array.size // lanes
    start = np.zeros(lanes, dtype=np.uint32)
    start[0] = 0xFFFFFFFF
    registers = _step(start, array[: lanes * length].reshape(lanes, length)).tolist()
    register = registers[0]
    shift = _zeros(length)
    for other in registers[1:]:
        register = _apply(shift, register) ^ other
    rest = array[lanes * length :].reshape(1, -1)
    return int(_step(np.array([register], dtype=np.uint32), rest)[0]) ^ 0xFFFFFFFF


def unmask(masked: int) -> int:
    """The checksum behind a stored one; files hold it rotated and shifted."""
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
