"""What a text or an exemplar chooses from: all that the network sees, that moves, and that has one colour, in one list.

The network's proposals keep the rank that it gave them: weighing them a second time by motion, as is done to find
objects without being told any, hides what a still or a rippling scene shows clearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from engines.proposals.camera_motion import residual_motion
from engines.proposals.colour_regions import ColourRegionProposer
from engines.proposals.moving import MovingProposer
from engines.proposals.ranking import RankingConfig, drop_repeats, rank
from engines.protocols import Proposal, Proposer, ThoroughProposer
from engines.types import Frame


@dataclass(frozen=True)
class CandidateConfig:
    """region_weight: of regions of one colour beside objects: a part must not win over its whole."""

    region_weight: float = 0.25
    ranking: RankingConfig = RankingConfig()


class CandidateProposer:
    """Implements `Proposer`. network: None where there are no weights.

    What was found in the last frames asked about is kept: several texts mostly speak of one picture.
    """

    def __init__(self, network: Proposer | None, config: CandidateConfig | None = None) -> None:
        self._network = network.thorough() if isinstance(network, ThoroughProposer) else network
        self._config = config or CandidateConfig()
        self._moving = MovingProposer()
        self._regions = ColourRegionProposer()
        self._last: tuple[bytes, list[Proposal]] = (b"", [])

    def propose(self, frames: Sequence[Frame]) -> list[Proposal]:
        """Everything found, best first, repeats dropped."""
        key = _digest(frames)
        if self._last[0] != key:
            self._last = (key, self._find(frames))
        return list(self._last[1])

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
