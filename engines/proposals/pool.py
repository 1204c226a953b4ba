"""Several proposers as one: what they all find, ranked together."""

from __future__ import annotations

from collections.abc import Sequence

from engines.proposals.camera_motion import residual_motion
from engines.proposals.ranking import RankingConfig, rank
from engines.protocols import Proposal, Proposer
from engines.types import Frame


class PooledProposer:
    """Implements `Proposer`. `fallback` is asked only when the others find nothing at all.

    What a proposer has ranked itself is weighed a second time here, so a network must be sure of something large to
    beat what moves. Weighing it once gave false objects on the demo clip and looser masks with the starter weights.
    """

    def __init__(
        self, proposers: Sequence[Proposer], fallback: Proposer | None = None, config: RankingConfig | None = None
    ) -> None:
        self._proposers = tuple(proposers)
        self._fallback = fallback
        self._config = config or RankingConfig()

    def propose(self, frames: Sequence[Frame]) -> list[Proposal]:
        """Everything found, best first, repeats dropped."""
        found = [each for proposer in self._proposers for each in proposer.propose(frames)]
        if not found and self._fallback is not None:
            found = self._fallback.propose(frames)
        return rank(found, residual_motion(frames), self._config)
