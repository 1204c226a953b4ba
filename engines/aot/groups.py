"""Groups of ten objects within a track: opening one, and sharing the track's memory budget among them."""

from __future__ import annotations

from dataclasses import replace

from engines.aot.config import AotConfig
from engines.aot.memory import LongTermMemory, match_feature
from engines.aot.track import AotTrack, Group
from engines.banks import bank_config, build_bank
from engines.banks.budget import split_budget
from engines.labels import Slots

MERGE_THRESHOLD = 0.98
"""Cosine similarity of last-layer keys from which on tokens merge (benchmarks/RESULTS.md has the histogram)."""


def new_group(track: AotTrack, config: AotConfig, channel_order: tuple[int, ...]) -> Group:
    """Add an empty group to a track; the other groups give up their shares of the budget."""
    budget = track.budget_tokens
    share = 1 if budget is None else split_budget(budget, len(track.groups) + 1)
    bank = bank_config(track.memory, budget_tokens=share, match=match_feature(config))
    if track.memory.merge_threshold is None:
        bank = replace(bank, merge_threshold=MERGE_THRESHOLD)
    group = Group(LongTermMemory(config, build_bank(bank)), Slots(channel_order))
    track.groups.append(group)
    share_budget(track)
    return group


def share_budget(track: AotTrack) -> None:
    """Split the track's budget evenly over its groups, after one came or went."""
    if track.budget_tokens is not None and track.groups:
        share = split_budget(track.budget_tokens, len(track.groups))
        for group in track.groups:
            group.long_term.bank.resize(share, step=track.steps)
