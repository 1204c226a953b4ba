"""The adaptive feature bank, default policy: absorb what is new, merge what is known, evict what is little used.

Source: AFB-URR, Liang et al. 2020, section 3.2. Where the released arithmetic loses features, forgets references or
crashes, this does not (docs/methods.md); `exact.py` holds the released arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engines.banks.base import FEATURE, NO_IDENTITY, Rows, TokenBank, pick
from engines.banks.budget import spread
from engines.banks.similarity import Targets, nearest


class AdaptiveBank(TokenBank):
    """Merges each new token into its nearest like token or appends it; evicts the least used, as many as must go."""

    def _write_memory(self, rows: Rows, step: int) -> None:
        target = self._merge_targets(rows)
        merged = target >= 0
        self._merge(target[merged], pick(rows, merged))
        touched = torch.zeros(len(self), dtype=torch.bool, device=target.device)
        touched[target[merged]] = True
        rows = self._fit(pick(rows, ~merged), touched)
        if rows["arrival"].shape[0]:
            self._replace(rows, step, self._evictable() & ~touched)

    def _merge_targets(self, rows: Rows) -> Tensor:
        """[n] int64 index of the bank token that each new one merges into, -1 for none."""
        if not len(self):
            return torch.full_like(rows["arrival"], -1)
        allowed = self._evictable() & self._storage.column("mergeable")
        score, index = self._nearest(rows, self._storage.column(FEATURE + self.config.match), allowed, self.identity())
        floor = self.config.merge_threshold if self.config.metric == "cosine" else -self.config.merge_threshold
        return torch.where((score > floor) & rows["mergeable"], index, -1)

    def _nearest(self, rows: Rows, keys: Tensor, allowed: Tensor | None, identity: Tensor) -> tuple[Tensor, Tensor]:
        guarded = bool((rows["identity"] != NO_IDENTITY).any()) or bool((identity != NO_IDENTITY).any())
        targets = Targets(keys, allowed, identity if guarded else None)
        new = rows[FEATURE + self.config.match]
        return nearest(new, targets, metric=self.config.metric, identity=rows["identity"] if guarded else None)

    def _merge(self, target: Tensor, rows: Rows) -> None:
        """Move each target towards the mean of the new tokens that chose it, by the update rate."""
        if not target.numel():
            return
        self._counts["merged"] += target.numel()
        slots, position = target.unique(return_inverse=True)
        for name in (FEATURE + n for n in self.feature_names):
            column = self._storage.column(name)
            mean = group_mean(rows[name].float(), position, slots.numel())
            column.index_copy_(0, slots, column[slots].float().lerp_(mean, self.config.update_rate).to(column.dtype))

    def _fit(self, rows: Rows, touched: Tensor) -> Rows:
        """At most as many new tokens as the budget leaves; the others are merged into those, or into the touched."""
        room = (self.config.budget_tokens or 0) - int((self.is_reference() | touched).sum())
        added = rows["arrival"].shape[0]
        if added <= room:
            return rows
        kept = _keep_first(rows["mergeable"], room)
        rest = pick(rows, ~kept)
        rows = pick(rows, kept)
        lost = self._fold(rest, rows) if room else self._fold_into_bank(rest, touched)
        self._counts["merged"] += added - room - lost
        self._counts["evicted"] += lost
        return rows

    def _fold(self, rest: Rows, kept: Rows) -> int:
        """Merge `rest` into the nearest of `kept`, in place; returns how many found none of their identity."""
        keys = kept[FEATURE + self.config.match]
        score, index = self._nearest(rest, keys, kept["mergeable"], kept["identity"])
        fits = (score > -torch.inf) & rest["mergeable"]
        for name in (n for n in kept if n.startswith(FEATURE)):
            sums = kept[name].float().index_add(0, index[fits], rest[name][fits].float())
            size = torch.ones_like(keys[:, 0], dtype=torch.float32).index_add(0, index[fits], fits[fits].float())
            kept[name] = (sums / size[:, None]).to(kept[name].dtype)
        return int((~fits).sum())

    def _fold_into_bank(self, rest: Rows, touched: Tensor) -> int:
        """Merge `rest` into tokens that were merged into just now; returns how many found none of their identity."""
        if not bool(touched.any()):
            return int(rest["arrival"].shape[0])
        keys = self._storage.column(FEATURE + self.config.match)
        score, index = self._nearest(rest, keys, touched, self.identity())
        fits = (score > -torch.inf) & rest["mergeable"]
        counted = self._counts["merged"]
        self._merge(index[fits], pick(rest, fits))
        self._counts["merged"] = counted
        return int((~fits).sum())

    def _choose_evicted(self, count: int, step: int, candidates: Tensor) -> Tensor:
        """Least used per step of age; those younger than the grace period only when no other is left."""
        age = (step - self.arrival()).clamp_(min=1)
        score = self.usage() / age
        old = candidates & (age >= self.config.grace_steps)
        spare = min(count, int(old.sum()))
        first = score.masked_fill(~old, torch.inf).topk(spare, largest=False).indices
        if spare == count:
            return first
        young = score.masked_fill(~(candidates & ~old), torch.inf).topk(count - spare, largest=False).indices
        return torch.cat([first, young])


def group_mean(rows: Tensor, group: Tensor, groups: int) -> Tensor:
    """[groups, width] mean of the rows of each group: [m, width] rows, [m] int64 group."""
    sums = rows.new_zeros(groups, rows.shape[1]).index_add_(0, group, rows)
    size = rows.new_zeros(groups).index_add_(0, group, rows.new_ones(group.numel()))
    return sums.div_(size[:, None])


def _keep_first(mergeable: Tensor, room: int) -> Tensor:
    """[n] bool with `room` set: tokens that cannot merge come first, the rest is spread evenly."""
    kept = torch.zeros_like(mergeable)
    rigid = (~mergeable).nonzero().squeeze(1)
    soft = mergeable.nonzero().squeeze(1)
    taken = min(room, rigid.numel())
    kept[rigid] = spread(rigid.numel(), taken, device=kept.device)
    kept[soft] = spread(soft.numel(), room - taken, device=kept.device)
    return kept
