"""The papers' memory: every memorised frame stays whole, for ever. The reference for accuracy; nothing bounds it."""

from __future__ import annotations

from torch import Tensor

from engines.banks.base import Rows, TokenBank


class EveryKBank(TokenBank):
    """Appends; "every k" is the engine's doing. A budget means nothing to it."""

    def _write_memory(self, rows: Rows, step: int) -> None:
        self._storage.append(rows)

    def _choose_evicted(self, count: int, step: int, candidates: Tensor) -> Tensor:
        raise ValueError("an unbounded bank evicts nothing")
