"""One bank per channel of a track, sharing one budget evenly, or each with a budget of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from engines.banks.budget import split_budget
from engines.banks.build import build_bank, restore_bank
from engines.banks.config import BankConfig
from engines.banks.protocol import FeatureBank
from engines.track_state import join_states, part_of
from engines.types import TrackState


class SharedBanks:
    """Banks by channel name (an object id, or 0 for the background).

    config: of the whole; its budget_tokens is what all banks together may hold, or with shared=False what each may.
    """

    def __init__(self, config: BankConfig, *, shared: bool = True) -> None:
        self.config = config
        self.shared = shared
        self._banks: dict[int, FeatureBank] = {}

    def __getitem__(self, channel: int) -> FeatureBank:
        return self._banks[channel]

    def __contains__(self, channel: int) -> bool:
        return channel in self._banks

    def __iter__(self) -> Iterator[int]:
        return iter(self._banks)

    def __len__(self) -> int:
        return sum(len(bank) for bank in self._banks.values())

    @property
    def nbytes(self) -> int:
        """Bytes allocated now, all banks together."""
        return sum(bank.nbytes for bank in self._banks.values())

    @property
    def counts(self) -> dict[str, int]:
        """Tokens written, merged, evicted and thinned, all banks together."""
        total: dict[str, int] = {}
        for bank in self._banks.values():
            for name, value in bank.counts.items():
                total[name] = total.get(name, 0) + value
        return total

    def open(self, channels: Iterable[int], *, step: int) -> None:
        """Add empty banks for new channels; the others give up room for them."""
        new = [c for c in channels if c not in self._banks]
        if not new:
            return
        share = self._share(len(self._banks) + len(new))
        for bank in self._banks.values():
            self._resize(bank, share, step)
        for channel in new:
            self._banks[channel] = build_bank(replace(self.config, budget_tokens=share))

    def drop(self, channel: int, *, step: int) -> None:
        """Remove one bank; the others get its room. Raises KeyError."""
        del self._banks[channel]
        for bank in self._banks.values():
            self._resize(bank, self._share(len(self._banks)), step)

    def clear(self) -> None:
        """Remove all banks."""
        self._banks.clear()

    def _share(self, banks: int) -> int | None:
        """Budget of each of `banks` banks. Released AFB-URR gives two banks 0.8 of their halves only."""
        total = self.config.budget_tokens
        if total is None or not self.shared:
            return total
        share = split_budget(total, banks)
        return max(1, int(0.8 * share)) if self.config.exact and banks == 2 else share

    def _resize(self, bank: FeatureBank, share: int | None, step: int) -> None:
        if share is not None:
            bank.resize(share, step=step)

    def snapshot(self) -> TrackState:
        """All banks, copied to the host."""
        own = TrackState(
            {"config": self.config.to_json(), "channels": json.dumps(list(self._banks)), "shared": int(self.shared)}
        )
        return join_states(own, {f"bank{c}": bank.snapshot() for c, bank in self._banks.items()})

    @classmethod
    def restore(cls, state: TrackState, device: torch.device) -> SharedBanks:
        """The banks that snapshot() saw, byte for byte. Raises StateMismatch."""
        shared = cls(BankConfig.from_json(str(state.meta["config"])), shared=bool(state.meta["shared"]))
        for channel in json.loads(str(state.meta["channels"])):
            shared._banks[channel] = restore_bank(part_of(state, f"bank{channel}"), device)
        return shared
