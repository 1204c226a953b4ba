"""What every feature bank promises. A bank knows tensors, never a network or a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from engines.types import TrackState


@dataclass(frozen=True)
class Tokens:
    """A batch of n new features.

    features: name -> [n, width]; every write to one bank carries the same names, widths and dtype
    (AOT: the keys and values of every layer; STM: key and value).
    identity: [n] int64 channel that the token speaks for, or None where it does not matter; tokens of different
    identity never merge.
    mergeable: [n] bool, False keeps a token whole (boundary tokens); None means all may merge.
    salient: [n] bool, object and boundary tokens, which are thinned last when references are too many; None derives it:
    identity above 0, or not mergeable.
    """

    features: Mapping[str, Tensor]
    identity: Tensor | None = None
    mergeable: Tensor | None = None
    salient: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of tokens."""
        return int(next(iter(self.features.values())).shape[0])


@runtime_checkable
class FeatureBank(Protocol):
    """Bounded storage of tokens with reference tokens that nothing alters."""

    def write(self, tokens: Tokens, *, step: int, reference: bool = False) -> None:
        """Take copies of new tokens. Reference tokens are never merged into and never evicted.

        step: the track's own step, not below an earlier one; age counts from it.
        """
        ...

    def view(self, name: str) -> Tensor:
        """[n, width] filled prefix of one feature, without a copy. Valid until the next write, discard or resize.

        The order is the same for all features and otherwise free. Raises NoReferenceFrame when the bank is empty.
        """
        ...

    def add_usage(self, mass: Tensor) -> None:
        """Add one read's use of each token: [n] in the order of view().

        Attention mass summed over queries and heads; arg-min hits for FEELVOS; in an `exact` bank the number of queries
        whose weight on the token exceeds 1e-3.
        """
        ...

    def resize(self, budget_tokens: int, *, step: int) -> None:
        """Set another budget (an object joined or left) and evict down to it. An unbounded bank ignores it."""
        ...

    def discard(self, mask: Tensor) -> None:
        """Drop the tokens where the [n] bool mask is set, reference tokens included."""
        ...

    def identity(self) -> Tensor:
        """[n] int64 identity of each token, -1 where none was given."""
        ...

    def is_reference(self) -> Tensor:
        """[n] bool."""
        ...

    def __len__(self) -> int:
        """Tokens held now."""
        ...

    @property
    def budget_tokens(self) -> int | None:
        """Most tokens it may hold, None for no bound."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes allocated now, spare room included."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """How many tokens were ever written, merged, evicted, and how many reference tokens were thinned out."""
        ...

    def snapshot(self) -> TrackState:
        """All of it, copied to the host."""
        ...
