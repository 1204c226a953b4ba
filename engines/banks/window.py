"""References and the newest tokens; the oldest leave first."""

from __future__ import annotations

import torch
from torch import Tensor

from engines.banks.base import Rows, TokenBank, pick
from engines.banks.budget import spread


class WindowBank(TokenBank):
    """Keeps references and, in what is left of the budget, the newest tokens."""

    def _write_memory(self, rows: Rows, step: int) -> None:
        budget = self.config.budget_tokens
        room = (budget or 0) - int(self.is_reference().sum())
        added = rows["arrival"].shape[0]
        if added > room:
            self._counts["evicted"] += added - room
            rows = pick(rows, spread(added, room, device=rows["arrival"].device))
        self._replace(rows, step, self._evictable())

    def _choose_evicted(self, count: int, step: int, candidates: Tensor) -> Tensor:
        never = torch.iinfo(torch.int64).max
        return self.arrival().masked_fill(~candidates, never).topk(count, largest=False).indices
