"""The door to feature banks: a policy in, an empty bank out; a snapshot in, the same bank out."""

from __future__ import annotations

from dataclasses import replace

import torch

from engines.banks.adaptive import AdaptiveBank
from engines.banks.base import TokenBank
from engines.banks.config import BankConfig
from engines.banks.every_k import EveryKBank
from engines.banks.exact import ExactAdaptiveBank
from engines.banks.protocol import FeatureBank
from engines.banks.window import WindowBank
from engines.types import MemoryPolicy, TrackState

_KINDS: dict[str, type[TokenBank]] = {"every_k": EveryKBank, "window": WindowBank, "adaptive": AdaptiveBank}


def bank_config(policy: MemoryPolicy, *, budget_tokens: int, match: str = "key") -> BankConfig:
    """The settings of a bank under `policy`; replace() fields that an engine calibrates differently.

    budget_tokens: share of this bank, from budget.py; an every_k bank ignores it.
    """
    unbounded = policy.kind == "every_k"
    config = BankConfig(
        kind=policy.kind,
        budget_tokens=None if unbounded else budget_tokens,
        match=match,
        exact=policy.exact and policy.kind == "adaptive",
        static=policy.static and not unbounded,
    )
    return config if policy.merge_threshold is None else replace(config, merge_threshold=policy.merge_threshold)


def build_bank(config: BankConfig) -> FeatureBank:
    """An empty bank. It lives on the device of the first tokens written to it."""
    return _build(config)


def restore_bank(state: TrackState, device: torch.device | str = "cpu") -> FeatureBank:
    """The bank that snapshot() saw, byte for byte. Raises StateMismatch."""
    bank = _build(BankConfig.from_json(str(state.meta["config"])))
    bank.load(state, torch.device(device))
    return bank


def _build(config: BankConfig) -> TokenBank:
    return ExactAdaptiveBank(config) if config.exact else _KINDS[config.kind](config)
