"""The adaptive feature bank with the released arithmetic of AFB-URR, for parity and comparison.

It protects nothing, may empty a bank, and fails when one write brings more new tokens than the budget holds.
Source: AFB-URR, Liang et al. 2020; checked by tests/parity/afb_urr.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from engines.banks.adaptive import group_mean
from engines.banks.base import FEATURE, Rows, TokenBank, pick
from engines.banks.similarity import Targets, nearest
from engines.banks.storage import TokenStorage
from engines.errors import BudgetTooSmall

_USAGE_LIMIT = 1e5


class ExactAdaptiveBank(TokenBank):
    """Absorb, merge and evict as released. The first write stays whole, whatever the budget."""

    def _new_storage(self) -> TokenStorage:
        return TokenStorage(limit=None)

    def add_usage(self, mass: Tensor) -> None:
        """Add ln(hits + 1); mass: [n] number of queries whose weight on the token exceeds 1e-3."""
        usage = self._storage.column("usage")
        usage.add_(mass.float().log1p())

    def resize(self, budget_tokens: int, *, step: int) -> None:
        """Set another budget; the next write evicts down to it (the released loops never change it)."""
        self.config = replace(self.config, budget_tokens=budget_tokens)

    def _write_reference(self, rows: Rows, step: int) -> None:
        if len(self):
            self._write_memory(rows, step)
        else:
            self._storage.append(rows)

    def _write_memory(self, rows: Rows, step: int) -> None:
        if not len(self):
            self._storage.append(rows)
            return
        match = FEATURE + self.config.match
        score, index = nearest(rows[match], Targets(self._storage.column(match)), metric="cosine")
        merged = score > self.config.merge_threshold
        self._merge(index[merged], pick(rows, merged))
        appended = pick(rows, ~merged)
        self._make_room(appended["arrival"].shape[0], step)
        self._storage.append(appended)
        self._storage.column("usage").clamp_(0.0, _USAGE_LIMIT)

    def _merge(self, target: Tensor, rows: Rows) -> None:
        """entry = |entry| * ((1 - r) * unit(entry) + r * mean of unit(new)), for every feature."""
        if not target.numel():
            return
        self._counts["merged"] += target.numel()
        slots, position = target.unique(return_inverse=True)
        rate = self.config.update_rate
        for name in (FEATURE + n for n in self.feature_names):
            column = self._storage.column(name)
            entry, norm = _split(column[slots].float())
            mean = group_mean(_split(rows[name].float())[0], position, slots.numel())
            column.index_copy_(0, slots, (norm * ((1 - rate) * entry + rate * mean)).to(column.dtype))

    def _make_room(self, added: int, step: int) -> None:
        """Keep tokens whose score exceeds the smallest score rounded up past it, again until the new ones fit."""
        budget = self.config.budget_tokens or 0
        while len(self) + added > budget:
            if not len(self):
                raise BudgetTooSmall(
                    f"{added} new tokens exceed an exact bank's budget of {budget}: "
                    f"give at least {added}, or use the default adaptive bank, which cannot fail here"
                )
            score = self.usage() / (step - self.arrival())
            gone = score <= int(score.min()) + 1
            self._counts["evicted"] += int(gone.sum())
            self._storage.close_up(gone)

    def _choose_evicted(self, count: int, step: int, candidates: Tensor) -> Tensor:
        raise ValueError("an exact bank evicts by threshold, not by count")


def _split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors [n, width] and norms [n, 1]."""
    norm = rows.norm(dim=1, keepdim=True)
    return rows / norm.clamp(min=1e-12), norm
