"""What all banks share: token bookkeeping, reads, references, snapshots. Which tokens go is decided elsewhere."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from engines.banks.budget import reference_limit, references_to_keep
from engines.banks.config import BankConfig
from engines.banks.protocol import Tokens
from engines.banks.storage import TokenStorage
from engines.errors import NoReferenceFrame, StateMismatch
from engines.types import TrackState

SCHEMA = 1
NO_IDENTITY = -1
FEATURE = "feature."
_COUNTS = ("written", "merged", "evicted", "thinned")
_log = logging.getLogger(__name__)

Rows = dict[str, Tensor]


class TokenBank(ABC):
    """Base of the banks; see protocol.FeatureBank for what its methods promise."""

    def __init__(self, config: BankConfig) -> None:
        self.config = config
        self._storage = self._new_storage()
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._references = 0

    def _new_storage(self) -> TokenStorage:
        return TokenStorage(limit=self.config.budget_tokens, static=self.config.static)

    # --- reading -----------------------------------------------------------------------------------------------------

    def view(self, name: str) -> Tensor:
        """[n, width] filled prefix of one feature, without a copy. Valid until the next write, discard or resize."""
        if not len(self._storage):
            raise NoReferenceFrame("the bank is empty: memorize a reference before reading from it")
        return self._storage.column(FEATURE + name)

    def identity(self) -> Tensor:
        """[n] int64 identity of each token, -1 where none was given."""
        return self._column("identity")

    def is_reference(self) -> Tensor:
        """[n] bool."""
        return self._column("reference") >= 0

    def usage(self) -> Tensor:
        """[n] float32 usage collected so far."""
        return self._column("usage")

    def arrival(self) -> Tensor:
        """[n] int64 step at which each token came."""
        return self._column("arrival")

    def _column(self, name: str) -> Tensor:
        return self._storage.column(name) if self._storage.names else torch.zeros(0, dtype=torch.int64)

    def add_usage(self, mass: Tensor) -> None:
        """Add one read's attention mass (or hits) per token: [n] in the order of view()."""
        self._storage.column("usage").add_(mass.to(torch.float32))

    def __len__(self) -> int:
        return len(self._storage)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features held; empty before the first write."""
        return tuple(n.removeprefix(FEATURE) for n in self._storage.names if n.startswith(FEATURE))

    @property
    def nbytes(self) -> int:
        """Bytes allocated now, spare room included."""
        return self._storage.nbytes

    @property
    def budget_tokens(self) -> int | None:
        """Most tokens it may hold, None for no bound."""
        return self.config.budget_tokens

    @property
    def counts(self) -> Mapping[str, int]:
        """Tokens ever written, merged, evicted, and reference tokens thinned."""
        return dict(self._counts)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, tokens: Tokens, *, step: int, reference: bool = False) -> None:
        """Take copies of new tokens. Reference tokens are never merged into and never evicted."""
        rows = self._rows(tokens, step, reference)
        if not tokens.count:
            return
        self._counts["written"] += tokens.count
        if reference:
            self._write_reference(rows, step)
            self._references += 1
        else:
            self._write_memory(rows, step)

    @abstractmethod
    def _write_memory(self, rows: Rows, step: int) -> None:
        """Take rows that are no reference."""

    @abstractmethod
    def _choose_evicted(self, count: int, step: int, candidates: Tensor) -> Tensor:
        """Indices [count] of the tokens to evict among the [n] bool candidates."""

    def _write_reference(self, rows: Rows, step: int) -> None:
        if self.config.budget_tokens is not None:
            rows = self._fit_references(rows, reference_limit(self.config.budget_tokens))
        self._replace(rows, step, self._evictable())

    def _fit_references(self, rows: Rows, limit: int) -> Rows:
        """Thin old and new references to `limit` tokens; returns what stays of the new ones."""
        old = self.is_reference().nonzero().squeeze(1)
        merged = {name: torch.cat([self._old(name, old, rows), rows[name]]) for name in _REFERENCE_FACTS}
        keep = references_to_keep(merged["reference"], merged["identity"], merged["salient"], limit)
        thinned = int((~keep).sum())
        if thinned:
            _log.warning("references exceed half of the memory budget: %d of their tokens were thinned out", thinned)
            self._counts["thinned"] += thinned
            self._drop(old[~keep[: len(old)]])
            rows = pick(rows, keep[len(old) :])
        return rows

    def _old(self, name: str, index: Tensor, rows: Rows) -> Tensor:
        return self._storage.column(name)[index] if len(index) else rows[name][:0]

    def _replace(self, rows: Rows, step: int, candidates: Tensor) -> None:
        """Append rows; what does not fit takes the places of evicted candidates."""
        added = rows["arrival"].shape[0]
        budget = self.config.budget_tokens
        over = 0 if budget is None else len(self) + added - budget
        if over <= 0:
            self._storage.append(rows)
            return
        slots = self._choose_evicted(over, step, candidates)
        self._counts["evicted"] += over
        reused = min(over, added)
        self._storage.put(slots[:reused], {name: part[:reused] for name, part in rows.items()})
        if reused < over:
            self._drop(slots[reused:])
        elif reused < added:
            self._storage.append({name: part[reused:] for name, part in rows.items()})

    def _evictable(self) -> Tensor:
        return ~self.is_reference()

    def _drop(self, index: Tensor) -> None:
        if len(index):
            mask = torch.zeros(len(self), dtype=torch.bool, device=index.device)
            mask[index] = True
            self._storage.remove(mask)

    def discard(self, mask: Tensor) -> None:
        """Drop the tokens where the [n] bool mask is set, reference tokens included. The order may change."""
        if len(self):
            self._storage.remove(mask.to(torch.bool))

    def resize(self, budget_tokens: int, *, step: int) -> None:
        """Set another budget and evict down to it, references thinned to half of it. An unbounded bank ignores it."""
        if self.config.budget_tokens is None:
            return
        self.config = replace(self.config, budget_tokens=budget_tokens)
        if len(self):
            self._shrink(budget_tokens, step)
        self._storage.resize(budget_tokens)

    def _shrink(self, budget_tokens: int, step: int) -> None:
        none: Rows = {name: self._storage.column(name)[:0] for name in self._storage.names}
        self._fit_references(none, reference_limit(budget_tokens))
        over = len(self) - budget_tokens
        if over > 0:
            self._counts["evicted"] += over
            self._drop(self._choose_evicted(over, step, self._evictable()))

    def _rows(self, tokens: Tokens, step: int, reference: bool) -> Rows:
        rows = {FEATURE + name: part.detach() for name, part in tokens.features.items()}
        held = [n for n in self._storage.names if n.startswith(FEATURE)]
        if held and sorted(held) != sorted(rows):
            raise ValueError(f"this bank holds {sorted(held)}, not {sorted(rows)}")
        sample = next(iter(rows.values()))
        whole = sample.new_ones(tokens.count, dtype=torch.bool)
        identity = torch.full_like(whole, NO_IDENTITY, dtype=torch.int64)
        number = self._references if reference else -1
        mergeable = whole if tokens.mergeable is None else tokens.mergeable
        rows["arrival"] = torch.full_like(identity, step)
        rows["usage"] = torch.zeros_like(identity, dtype=torch.float32)
        rows["identity"] = identity if tokens.identity is None else tokens.identity.to(torch.int64)
        rows["reference"] = torch.full_like(identity, number)
        rows["mergeable"] = mergeable
        rows["salient"] = (rows["identity"] > 0) | ~mergeable if tokens.salient is None else tokens.salient
        return rows

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> TrackState:
        """All of it, copied to the host."""
        meta: dict[str, int | str] = {
            "schema": SCHEMA,
            "config": self.config.to_json(),
            "counts": json.dumps(self._counts),
            "references": self._references,
        }
        return TrackState(meta=meta, tensors=self._storage.export())

    def load(self, state: TrackState, device: torch.device) -> None:
        """Fill an empty bank from a snapshot. Raises StateMismatch."""
        if state.meta.get("schema") != SCHEMA:
            raise StateMismatch(f"bank snapshot of schema {state.meta.get('schema')}, this is {SCHEMA}: start afresh")
        self._counts = json.loads(str(state.meta["counts"]))
        self._references = int(state.meta["references"])
        self._storage.load(state.tensors, device)


_REFERENCE_FACTS = ("reference", "identity", "salient")


def pick(rows: Rows, chosen: Tensor) -> Rows:
    """The rows where the [n] bool mask is set."""
    return {name: part[chosen] for name, part in rows.items()}
