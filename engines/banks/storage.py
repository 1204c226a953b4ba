"""Owned storage of token columns: blocks that double up to a limit, read as a filled prefix. Knows no policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_SMALLEST_BLOCK = 64
_MOVE_ROWS = 4096
"""Rows moved at a time when a column is closed up: bounds the extra memory."""


class TokenStorage:
    """Columns of equal length, one row per token. Every row is a copy of what was given.

    limit: most rows, None for no limit. static: allocate `limit` rows at once.
    """

    def __init__(self, *, limit: int | None, static: bool = False) -> None:
        self._blocks: dict[str, Tensor] = {}
        self._count = 0
        self._limit = limit
        self._static = static

    def __len__(self) -> int:
        return self._count

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns; empty before the first append."""
        return tuple(self._blocks)

    @property
    def allocated(self) -> int:
        """Rows allocated, spare ones included."""
        return next(iter(self._blocks.values())).shape[0] if self._blocks else 0

    @property
    def nbytes(self) -> int:
        """Bytes allocated, spare rows included."""
        return sum(block.numel() * block.element_size() for block in self._blocks.values())

    def column(self, name: str) -> Tensor:
        """[n, ...] filled prefix without a copy; it aliases the storage."""
        return self._blocks[name][: self._count]

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Copy rows to the end. Raises ValueError beyond the limit."""
        added = _length(rows.values())
        self._reserve(self._count + added, like=rows)
        for name, block in self._blocks.items():
            block[self._count : self._count + added].copy_(rows[name])
        self._count += added

    def put(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Overwrite whole rows: [m] indices, one row each."""
        for name, block in self._blocks.items():
            block.index_copy_(0, slots, rows[name].to(block.dtype))

    def remove(self, mask: Tensor) -> None:
        """Drop rows; the last rows fill the holes, so the order changes and little is moved."""
        kept = self._count - int(mask.sum())
        holes = mask[:kept].nonzero().squeeze(1)
        movers = (~mask[kept:]).nonzero().squeeze(1) + kept
        for block in self._blocks.values():
            for start in range(0, len(holes), _MOVE_ROWS):
                part = slice(start, start + _MOVE_ROWS)
                block.index_copy_(0, holes[part], block.index_select(0, movers[part]))
        self._count = kept

    def close_up(self, mask: Tensor) -> None:
        """Drop rows and keep the order of the others; moves all that lies behind the first hole."""
        keep = (~mask).nonzero().squeeze(1)
        for block in self._blocks.values():
            for start in range(0, len(keep), _MOVE_ROWS):
                part = keep[start : start + _MOVE_ROWS]
                block[start : start + len(part)] = block.index_select(0, part)
        self._count = len(keep)

    def resize(self, limit: int) -> None:
        """Set another limit, at least the rows held, and give back what lies beyond it."""
        if limit < self._count:
            raise ValueError(f"{self._count} rows do not fit a limit of {limit}")
        self._limit = limit
        if self._blocks and (self.allocated > limit or self._static):
            self._reallocate(limit if self._static else self._block_rows(self._count))

    def _reserve(self, rows: int, *, like: Mapping[str, Tensor]) -> None:
        if self._limit is not None and rows > self._limit:
            raise ValueError(f"{rows} rows do not fit a limit of {self._limit}")
        if not self._blocks:
            self._allocate(rows, like)
        elif rows > self.allocated:
            self._reallocate(self._block_rows(rows))

    def _allocate(self, rows: int, like: Mapping[str, Tensor]) -> None:
        size = self._limit if self._static and self._limit is not None else self._block_rows(rows)
        self._blocks = {name: part.new_empty((size, *part.shape[1:])) for name, part in like.items()}

    def _reallocate(self, rows: int) -> None:
        for name, block in self._blocks.items():
            bigger = block.new_empty((rows, *block.shape[1:]))
            bigger[: self._count].copy_(block[: self._count])
            self._blocks[name] = bigger

    def _block_rows(self, rows: int) -> int:
        doubled = max(_SMALLEST_BLOCK, 1 << max(0, rows - 1).bit_length())
        return doubled if self._limit is None else min(doubled, self._limit)

    def export(self) -> dict[str, Tensor]:
        """The filled rows of every column, copied to the host."""
        return {name: self.column(name).to("cpu", copy=True) for name in self._blocks}

    def load(self, columns: Mapping[str, Tensor], device: torch.device) -> None:
        """Fill an empty storage with exported columns."""
        if columns:
            self.append({name: column.to(device) for name, column in columns.items()})


def _length(parts: Iterable[Tensor]) -> int:
    lengths = {int(part.shape[0]) for part in parts}
    if len(lengths) != 1:
        raise ValueError(f"columns of one write differ in length: {sorted(lengths)}")
    return lengths.pop()
