"""What one bank is told when it is built. Plain values, so that a snapshot can carry them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from engines.types import BankKind

Metric = Literal["cosine", "l2"]


@dataclass(frozen=True)
class BankConfig:
    """Settings of one bank.

    budget_tokens: most tokens it may hold; None is unbounded (every_k only).
    match: the feature whose similarity decides merges, for all features at once.
    metric, merge_threshold: "cosine" merges above the threshold, "l2" below it (squared distance).
    update_rate: share of the new feature in a merge. grace_steps: no eviction by usage before that age.
    exact: the released arithmetic of AFB-URR. static: allocate the whole budget at the first write.
    """

    kind: BankKind
    budget_tokens: int | None
    match: str = "key"
    metric: Metric = "cosine"
    merge_threshold: float = 0.95
    update_rate: float = 0.1
    grace_steps: int = 10
    exact: bool = False
    static: bool = False

    def __post_init__(self) -> None:
        if self.budget_tokens is None and (self.kind != "every_k" or self.static):
            raise ValueError(f"a {self.kind} bank (static={self.static}) needs budget_tokens")
        if self.budget_tokens is not None and self.budget_tokens < 1:
            raise ValueError(f"budget_tokens must be at least 1, not {self.budget_tokens}")
        if not 0.0 < self.update_rate <= 1.0:
            raise ValueError(f"update_rate must be in (0, 1], not {self.update_rate}")
        if self.exact and (self.kind != "adaptive" or self.metric != "cosine"):
            raise ValueError("exact is the released arithmetic of the adaptive bank with cosine similarity only")

    def to_json(self) -> str:
        """The settings as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> BankConfig:
        """The settings that to_json() wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values)
