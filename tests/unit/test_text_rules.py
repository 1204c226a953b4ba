"""The grammar word by word, and the rules on drawn scenes where the right answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.errors import UnsupportedReference, UnusableReference
from engines.prompts.candidates import CandidateProposer
from engines.prompts.colours import NAMES, name_map, to_lab
from engines.prompts.text_grammar import Ordinal, TextQuery, parse
from engines.prompts.text_rules import agreed, select
from engines.prompts.words import WORDS
from engines.proposals.colour_regions import ColourRegionProposer
from engines.proposals.ranking import iou
from engines.protocols import Proposal, Proposer
from engines.types import Frame
from engines.uniref.words import WORDS as UNIREF_WORDS

HEIGHT, WIDTH = 120, 240
Mask = NDArray[np.bool_]

# name -> (x, y, radius, RGB); a white ground
DISCS = {
    "red left": (30, 40, 18, (200, 30, 30)),
    "blue": (85, 60, 24, (40, 70, 190)),
    "red middle": (140, 80, 14, (190, 40, 35)),
    "black": (180, 35, 20, (20, 20, 22)),
    "red right": (215, 85, 22, (210, 35, 30)),
}


def scene() -> tuple[NDArray[np.uint8], dict[str, Mask]]:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    image = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    masks = {}
    for name, (x, y, radius, colour) in DISCS.items():
        masks[name] = np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)
        image[masks[name]] = colour
    return image, masks


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the black one", "black"),
        ("blue", "blue"),
        ("the largest red object", "red right"),
        ("the smallest", "red middle"),
        ("the second red one from the left", "red middle"),
        ("the first red thing from the right", "red right"),
        ("the last red one", "red right"),
        ("third from the left", "red middle"),
        ("the 2nd largest", "red right"),
        ("the red one on the left", "red left"),
        ("rightmost", "red right"),
        ("first from the top", "black"),
        ("the dark one", "black"),
        ("red, in the middle", "red middle"),
    ],
)
def test_the_right_object_of_a_drawn_scene(text: str, name: str) -> None:
    image, masks = scene()
    proposals = [Proposal(mask, 0.8) for mask in masks.values()]
    chosen = select(parse(text), image, proposals)[0]
    assert chosen.mask is not None and iou(chosen.mask, masks[name]) == 1.0


def test_ordinals_do_not_count_an_object_twice() -> None:
    image, masks = scene()
    shifted = np.roll(masks["red left"], 2, axis=1)
    proposals = [Proposal(mask, 0.8) for mask in masks.values()] + [Proposal(shifted, 0.7)]
    chosen = select(parse("the second red one from the left"), image, proposals)[0]
    assert iou(chosen.mask, masks["red middle"]) == 1.0


def test_regions_of_one_colour_are_found_without_a_network() -> None:
    image, masks = scene()
    found = ColourRegionProposer().propose([image])
    for name in ("black", "blue", "red right"):
        assert max(iou(each.mask, masks[name]) for each in found) > 0.85
    assert iou(select(parse("the black one"), image, found)[0].mask, masks["black"]) > 0.85


def test_what_is_not_there_is_said() -> None:
    image, masks = scene()
    proposals = [Proposal(mask, 0.8) for mask in masks.values()]
    with pytest.raises(UnusableReference, match="nothing in the frame is green; 5 regions"):
        select(parse("the green one"), image, proposals)
    with pytest.raises(UnusableReference, match="number 4 of 3 objects"):
        select(parse("the fourth red one from the left"), image, proposals)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("the black one", TextQuery(colours=("black",))),
        ("grey or violet", TextQuery(colours=("gray", "purple"), unknown=("or",))),
        ("a tiny, bright-yellow bird", TextQuery(colours=("yellow",), lightness=1, size=-1, unknown=("bird",))),
        ("second car from the left", TextQuery(ordinal=Ordinal(2, "left"), unknown=("car",))),
        ("the last one", TextQuery(ordinal=Ordinal(-1, "left"))),
        ("the third smallest", TextQuery(ordinal=Ordinal(3, "smallest"))),
        ("in the upper left", TextQuery(directions=("top", "left"))),
        ("2nd from the bottom on the left", TextQuery(ordinal=Ordinal(2, "bottom"), directions=("left",))),
    ],
)
def test_the_grammar(text: str, query: TextQuery) -> None:
    assert parse(text) == query


def test_a_text_without_a_known_word_names_the_known_ones() -> None:
    with pytest.raises(UnsupportedReference) as caught:
        parse("the swan", free_text_engines=("uniref",))
    message = str(caught.value)
    assert "black" in message and "leftmost" in message and message.endswith("engines that take free text: uniref")


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_no_text_breaks_the_grammar(text: str) -> None:
    try:
        query = parse(text)
    except UnsupportedReference:
        return
    assert not query.is_empty


def test_both_text_engines_know_the_same_words() -> None:
    assert set(UNIREF_WORDS) <= set(WORDS)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((10, 10, 12), "black"), ((250, 250, 250), "white"), ((130, 128, 126), "gray"), ((220, 20, 25), "red"),
        ((250, 130, 10), "orange"), ((245, 230, 30), "yellow"), ((30, 140, 40), "green"), ((25, 50, 200), "blue"),
        ((110, 30, 140), "purple"), ((250, 150, 180), "pink"), ((110, 70, 40), "brown"),
    ],
)  # fmt: skip
def test_plain_colours_have_their_names(rgb: tuple[int, int, int], name: str) -> None:
    patch = np.full((2, 2, 3), rgb, np.uint8)
    assert {NAMES[index] for index in name_map(to_lab(patch)).ravel()} == {name}


def test_what_good_candidates_share_is_the_object() -> None:
    swan, water, rest = (np.zeros((20, 40), bool) for _ in range(3))
    swan[5:15, 5:15], water[5:15, 15:35], rest[0:3, 30:40] = True, True, True
    votes = [Proposal(swan | water, 0.5), Proposal(swan, 0.4), Proposal(swan | rest, 0.3), Proposal(rest, 0.1)]
    np.testing.assert_array_equal(agreed(votes), swan)
    np.testing.assert_array_equal(agreed([Proposal(swan | water, 0.5), Proposal(rest, 0.45)]), swan | water)


def test_few_pixels_of_a_rare_colour_count_more_than_many_of_a_common_one() -> None:
    image = np.full((60, 120, 3), (40, 60, 170), np.uint8)  # blue water
    boat = np.zeros((60, 120), bool)
    boat[20:40, 30:60] = True
    image[boat] = (120, 120, 120)
    image[20:40, 30:38] = (230, 230, 230)
    wave = np.zeros((60, 120), bool)
    wave[45:55, 60:110] = True
    proposals = [Proposal(boat, 0.5), Proposal(wave, 0.5)]
    assert select(parse("the white one"), image, proposals)[0].mask is boat
    assert len(select(parse("the blue one"), image, proposals)) == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("the black one", "colour"),
        ("a dark thing", "colour"),
        ("the largest", "size"),
        ("top left", "position"),
        ("second from the right", "ordinal"),
        ("the small red one", "combined"),
    ],
)
def test_the_kind_of_an_expression(text: str, kind: str) -> None:
    assert parse(text).kind == kind


class _Counting:
    def __init__(self, mask: Mask) -> None:
        self.mask, self.asked = mask, 0

    def propose(self, frames: Sequence[Frame]) -> list[Proposal]:
        self.asked += 1
        return [Proposal(self.mask, 0.5)]


class _Closer(_Counting):
    def thorough(self) -> Proposer:
        return _Counting(~self.mask)


def test_candidates_of_one_picture_are_looked_for_once() -> None:
    image, masks = scene()
    network = _Counting(masks["blue"])
    candidates = CandidateProposer(network)
    first, again = candidates.propose([image]), candidates.propose([image.copy()])
    assert network.asked == 1 and [each.score for each in first] == [each.score for each in again]
    assert first[0].mask is masks["blue"]  # ahead of its own region of one colour, and not twice
    assert all(iou(each.mask, masks["blue"]) < 0.6 for each in first[1:])
    candidates.propose([image[:, ::-1].copy()])
    assert network.asked == 2


def test_a_network_that_can_look_closer_does() -> None:
    image, masks = scene()
    network = _Closer(masks["blue"])
    found = CandidateProposer(network).propose([image])
    assert network.asked == 0 and any(np.array_equal(each.mask, ~masks["blue"]) for each in found)
