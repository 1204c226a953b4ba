"""Which proposals are objects: on drawn scenes, and with the shipped network that votes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.errors import UnknownEngine, UnusableReference
from engines.prompts.candidates import CandidateProposer
from engines.prompts.objectness import judge
from engines.prompts.text_grammar import parse
from engines.prompts.text_rules import select
from engines.proposals.ranking import iou
from engines.protocols import Proposal, Proposer
from engines.registry import create_proposer
from service import demo_clip

HEIGHT, WIDTH = 96, 160


def disc(x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def draw(*discs: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Red discs on grey texture."""
    grain = np.random.default_rng(1).integers(150, 220, (HEIGHT // 4, WIDTH // 4, 1))
    frame = np.kron(grain, np.ones((4, 4, 3))).astype(np.uint8)
    for each in discs:
        frame[each] = (200, 30, 35)
    return frame


def test_what_stands_out_and_is_agreed_on_is_likelier() -> None:
    thing, nothing, off = disc(40, 40, 18), disc(120, 50, 18), disc(58, 40, 18)
    judged = judge(draw(thing), [Proposal(off, 0.5), Proposal(nothing, 0.5)], [Proposal(thing, 0.5)])
    assert iou(judged[0].mask, thing) == 1.0 and judged[0].score > 2 * judged[1].score
    alone = judge(draw(thing), [], [Proposal(thing, 0.5)])[0].score
    both = judge(draw(thing), [Proposal(disc(41, 40, 18), 0.5)], [Proposal(thing, 0.5)])[0].score
    assert both > alone, "two that agree are surer than one"


def test_specks_and_nothing_at_all() -> None:
    speck = np.zeros((HEIGHT, WIDTH), bool)
    speck[5, 5] = True
    assert judge(draw(), [Proposal(speck, 0.9)], []) == []
    whole = judge(draw(), [Proposal(np.ones((HEIGHT, WIDTH), bool), 0.9)], [])
    assert len(whole) == 1 and 0.0 <= whole[0].score < 0.5


def test_a_doubtful_proposal_does_not_shift_the_count() -> None:
    places = {30: 0.9, 60: 0.1, 90: 0.9, 120: 0.9}
    frame = draw(*(disc(x, 50, 10) for x in places))
    proposals = [Proposal(disc(x, 50, 10), chance) for x, chance in places.items()]
    for text, x in (("the second from the left", 90), ("the last one", 120), ("first from the right", 120)):
        assert iou(select(parse(text), frame, proposals)[0].mask, disc(x, 50, 10)) == 1.0, text
    surer = [Proposal(each.mask, 0.9) for each in proposals]
    assert iou(select(parse("the second from the left"), frame, surer)[0].mask, disc(60, 50, 10)) == 1.0


def test_where_nothing_is_likely_the_likeliest_is_taken() -> None:
    frame = draw(disc(40, 50, 10), disc(90, 50, 10))
    unlikely = [Proposal(disc(40, 50, 10), 0.01), Proposal(disc(90, 50, 10), 0.02)]
    assert iou(select(parse("the big one"), frame, unlikely)[0].mask, disc(90, 50, 10)) == 1.0
    with pytest.raises(UnusableReference, match="number 2 of 1 objects"):
        select(parse("the second from the left"), frame, unlikely)
    with pytest.raises(UnusableReference, match="nothing in the frame is left; 0 regions"):
        select(parse("the left one"), frame, [])


class _Voter:
    """Sees the same two discs in every frame, and counts how often it is asked."""

    asked = 0

    def propose(self, frames: object) -> list[Proposal]:
        self.asked += 1
        return [Proposal(disc(40, 40, 18), 0.8), Proposal(disc(120, 60, 18), 0.8)]


def test_the_voter_is_asked_once_a_frame_and_only_when_needed() -> None:
    voter: Proposer = _Voter()
    pool = CandidateProposer(None, voter)
    frame = draw(disc(40, 40, 18), disc(120, 60, 18))
    ranked = pool.ranked([frame])
    assert voter.asked == 0  # type: ignore[attr-defined]
    judged = pool.propose([frame])
    assert pool.propose([frame]) == judged and len(judged) > len(ranked)
    assert voter.asked == 1  # type: ignore[attr-defined]
    moved = np.roll(frame, 3, axis=1)
    pool.propose([moved])
    assert voter.asked == 2  # type: ignore[attr-defined]


def test_the_shipped_voter_sees_the_demo_fish() -> None:
    clip = next(iter(demo_clip.render(1)))
    found = create_proposer("uniref-t", device="cpu").propose([clip.image])
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    best = [max(iou(each.mask, clip.label_map == fish) for each in found) for fish in (1, 2)]
    assert min(best) > 0.5, best
    with pytest.raises(UnknownEngine, match="give it a text"):
        create_proposer("uniref", device="cpu")
