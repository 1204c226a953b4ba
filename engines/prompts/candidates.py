"""What a text or an exemplar chooses from: all that networks see, that moves, and that has one colour, in one list.

The first network's proposals keep the rank that it gave them: weighing them a second time by motion, as is done to find
objects without being told any, hides what a still or a rippling scene shows clearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from engines.prompts.objectness import judge
from engines.proposals.camera_motion import residual_motion
from engines.proposals.colour_regions import ColourRegionProposer
from engines.proposals.moving import MovingProposer
from engines.proposals.ranking import RankingConfig, drop_repeats, motion_weight, rank
from engines.protocols import Proposal, Proposer, ThoroughProposer
from engines.types import Frame


@dataclass(frozen=True)
class CandidateConfig:
    """region_weight: of regions of one colour beside objects: a part must not win over its whole."""

    region_weight: float = 0.25
    ranking: RankingConfig = RankingConfig()


class CandidateProposer:
    """Implements `Proposer`; scores are probabilities. network, voter: None where there are no weights.

    The voter's scores are shares of votes, see `engines.uniref.proposer`. What was found in the last frames asked
    about is kept: several texts mostly speak of one picture.
    """

    def __init__(
        self, network: Proposer | None, voter: Proposer | None = None, config: CandidateConfig | None = None
    ) -> None:
        self._network = network.thorough() if isinstance(network, ThoroughProposer) else network
        self._voter = voter
        self._config = config or CandidateConfig()
        self._moving = MovingProposer()
        self._regions = ColourRegionProposer()
        self._frames = b""
        self._ranked: list[Proposal] | None = None
        self._judged: list[Proposal] | None = None

    def propose(self, frames: Sequence[Frame]) -> list[Proposal]:
        """Everything found, the voter's too, likeliest objects first."""
        ranked = self.ranked(frames)
        if self._judged is None:
            self._judged = judge(frames[0], ranked, self._vote(frames))
        return list(self._judged)

    def ranked(self, frames: Sequence[Frame]) -> list[Proposal]:
        """All but the voter's, with the scores of `rank`, best first, repeats dropped."""
        key = _digest(frames)
        if self._ranked is None or self._frames != key:
            self._frames, self._ranked, self._judged = key, self._find(frames), None
        return list(self._ranked)

    def _vote(self, frames: Sequence[Frame]) -> list[Proposal]:
        """The voter's, its votes weighed by motion as `rank` does where there is any."""
        voted = [] if self._voter is None else self._voter.propose(frames[:1])
        weigh = motion_weight(residual_motion(frames), self._config.ranking)
        return [Proposal(each.mask, each.score * weigh(each.mask)) for each in voted]

    def _find(self, frames: Sequence[Frame]) -> list[Proposal]:
        ranking, weight = self._config.ranking, self._config.region_weight
        motion = residual_motion(frames)
        found = [] if self._network is None else list(self._network.propose(frames))
        found += rank(self._moving.propose(frames), motion, ranking)
        regions = rank(self._regions.propose(frames), motion, ranking)
        found += [Proposal(each.mask, weight * each.score) for each in regions]
        return drop_repeats(found, ranking.same_iou)


def _digest(frames: Sequence[Frame]) -> bytes:
    digest = blake2b(repr([frame.shape for frame in frames]).encode())
    for frame in frames:
        digest.update(frame.tobytes())
    return digest.digest()
