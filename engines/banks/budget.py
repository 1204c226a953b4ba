"""Budgets: MiB and frames into tokens, shares of several banks, and which references stay when they are too many."""

from __future__ import annotations

import torch
from torch import Tensor

from engines.catalog import TOKEN_OVERHEAD_BYTES
from engines.errors import BudgetTooSmall
from engines.types import MemoryPolicy

_MIB = 1 << 20


def budget_tokens(policy: MemoryPolicy, *, token_bytes: int, default_tokens: int) -> int:
    """Tokens that a policy allows for one track, all banks together.

    token_bytes: bytes of one token's features over all layers; bookkeeping is added here.
    """
    if policy.budget_tokens is not None:
        return policy.budget_tokens
    if policy.budget_mib is not None:
        return int(policy.budget_mib * _MIB) // (token_bytes + TOKEN_OVERHEAD_BYTES)
    return default_tokens


def split_budget(tokens: int, banks: int) -> int:
    """Even share of each bank. Call again, and resize every bank, when an object joins or leaves."""
    return max(1, tokens // max(1, banks))


def reference_limit(tokens: int) -> int:
    """Tokens of a bank that references may fill: half of it, at least one."""
    return max(1, tokens // 2)


def smallest_budget(reference_tokens: int) -> int:
    """Smallest bank that keeps one whole reference and as much again for what follows."""
    return 2 * reference_tokens


def require_budget(tokens: int, reference_tokens: int, *, token_bytes: int, banks: int = 1) -> None:
    """Raise BudgetTooSmall when `banks` banks in `tokens` cannot each keep a whole reference in their half."""
    least = smallest_budget(reference_tokens) * banks
    if tokens < least:
        mib = least * (token_bytes + TOKEN_OVERHEAD_BYTES) / _MIB
        raise BudgetTooSmall(
            f"a memory budget of {tokens} tokens cannot hold the reference frame ({reference_tokens} tokens, "
            f"{banks} bank(s), references may fill half); the smallest that works is {least} tokens ({mib:.1f} MiB)"
        )


def references_to_keep(number: Tensor, identity: Tensor, salient: Tensor, limit: int) -> Tensor:
    """[r] bool: which reference tokens stay so that at most `limit` do.

    number: [r] int64, which reference write the token came with; identity: [r] int64, -1 where none;
    salient: [r] bool, object and boundary tokens. The first and the newest reference of each identity go last, salient
    tokens after the others; within a class they are thinned evenly.
    """
    keep = torch.ones_like(salient)
    excess = number.numel() - limit
    if excess <= 0:
        return keep
    rank = 2 * _first_or_newest(number, identity).long() + salient.long()
    for level in range(4):
        members = (rank == level).nonzero().squeeze(1)
        dropped = min(excess, members.numel())
        keep[members] = spread(members.numel(), members.numel() - dropped, device=keep.device)
        excess -= dropped
    return keep


def spread(total: int, kept: int, *, device: torch.device) -> Tensor:
    """[total] bool with `kept` of them set, evenly spaced."""
    mask = torch.zeros(total, dtype=torch.bool, device=device)
    if kept:
        mask[torch.arange(kept, device=device) * total // kept] = True
    return mask


def _first_or_newest(number: Tensor, identity: Tensor) -> Tensor:
    slot = identity + 1
    size = int(slot.max()) + 1
    first = number.new_full((size,), torch.iinfo(torch.int64).max).scatter_reduce(0, slot, number, "amin")
    newest = number.new_full((size,), -1).scatter_reduce(0, slot, number, "amax")
    return (number == first[slot]) | (number == newest[slot])
