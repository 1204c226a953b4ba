"""`text-rules`: a text reference without a language model. Filters and ranks proposals by what the words say.

Colours, sizes, positions and ordinals are computed from the masks; nouns are not understood, and said so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.errors import UnusableReference
from engines.prompts.colours import NAMES, name_map, to_lab
from engines.prompts.text_grammar import Ordinal, TextQuery
from engines.proposals.ranking import iou
from engines.protocols import Proposal
from engines.types import Frame

_LONG_SIDE = 320


@dataclass(frozen=True)
class RuleConfig:
    """countable: a proposal counts in an ordinal from this share of the best match on. apart: two countable ones share

    less than this of their area. prior: power of the proposal's own score beside the words.
    colour_floor: share of a mask's pixels that must have the colour asked for. contrast: power of how far the colour
    is the mask's rather than that of the rest of the frame: what has few pixels of a colour that nothing else has is
    meant, not the largest piece of what everything is made of. nearly, same_thing: share of the best score,
    and of the smaller of it and the best mask, from which a proposal has a say in where the object ends.
    """

    countable: float = 0.35
    apart: float = 0.3
    prior: float = 0.8
    colour_floor: float = 0.1
    contrast: float = 0.5
    nearly: float = 0.5
    same_thing: float = 0.5


@dataclass(frozen=True)
class _Looks:
    """What the rules ask of one proposal, in shares: area of the frame, centre (x, y), pixels of each colour name.

    elsewhere: pixels of each colour name in the rest of the frame.
    """

    area: float
    x: float
    y: float
    colours: NDArray[np.float64]
    elsewhere: NDArray[np.float64]
    lightness: float


def select(
    query: TextQuery, frame: Frame, proposals: Sequence[Proposal], config: RuleConfig | None = None
) -> list[Proposal]:
    """The proposals that fit, best first; their scores say how well the words fit, 0..1.

    proposals: as a Proposer gives them, for this frame. Raises UnusableReference, worded for the client, if none fits.
    """
    config = config or RuleConfig()
    looks = _describe(frame, proposals)
    scored = [
        Proposal(each.mask, fit * each.score**config.prior)
        for each, fit in zip(proposals, _fits(query, looks, config), strict=True)
    ]
    pairs = sorted(
        ((each, look) for each, look in zip(scored, looks, strict=True) if each.score > 0.0),
        key=lambda pair: pair[0].score,
        reverse=True,
    )
    if not pairs:
        raise UnusableReference(f"nothing in the frame is {_words(query)}; {len(proposals)} regions were looked at")
    if query.ordinal is None:
        return [each for each, _ in pairs]
    return _by_ordinal(query.ordinal, pairs, config)


def agreed(fitting: Sequence[Proposal], config: RuleConfig | None = None) -> NDArray[np.bool_]:
    """[H, W] bool: what the best proposal and those that fit nearly as well and overlap it agree on.

    fitting: best first, their scores are the votes. Water that moves with a swan is in one of several, the swan in all.
    """
    config = config or RuleConfig()
    best = fitting[0]
    voters = [
        each
        for each in fitting
        if each.score >= config.nearly * best.score and _overlap(each.mask, best.mask) >= config.same_thing
    ]
    votes = sum(each.score * each.mask for each in voters)
    return np.asarray(votes >= 0.5 * sum(each.score for each in voters))


def _words(query: TextQuery) -> str:
    light = {-1: ("dark",), 0: (), 1: ("light",)}[query.lightness]
    size = {-1: ("small",), 0: (), 1: ("large",)}[query.size]
    return " ".join((*size, *light, *query.colours, *query.directions)) or "what the text says"


def _describe(frame: Frame, proposals: Sequence[Proposal]) -> list[_Looks]:
    """Measure all proposals on one small copy of the frame."""
    import cv2

    height, width = frame.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    lab = to_lab(np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8))
    names = name_map(lab)
    everywhere = np.bincount(names.ravel(), minlength=len(NAMES))
    looks = []
    for each in proposals:
        small = np.asarray(cv2.resize(each.mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA)) > 0
        if not small.any():
            small[0, 0] = True
        rows, columns = np.nonzero(small)
        inside = np.bincount(names[small], minlength=len(NAMES))
        looks.append(
            _Looks(
                area=float(each.mask.mean()),
                x=float(columns.mean() + 0.5) / size[0],
                y=float(rows.mean() + 0.5) / size[1],
                colours=inside / len(rows),
                elsewhere=(everywhere - inside) / max(1, names.size - len(rows)),
                lightness=float(lab[..., 0][small].mean()) / 100.0,
            )
        )
    return looks


def _fits(query: TextQuery, looks: Sequence[_Looks], config: RuleConfig) -> list[float]:
    """How well each proposal has all attributes but the ordinal, 0..1."""
    areas = [look.area for look in looks]
    largest, smallest = max(areas, default=1.0), min(areas, default=1.0)
    fits = []
    for look in looks:
        fit = 1.0
        if query.colours:
            fit *= _colour_fit(query.colours, look, config)
        if query.lightness:
            fit *= look.lightness if query.lightness > 0 else 1.0 - look.lightness
        if query.size:
            fit *= look.area / largest if query.size > 0 else smallest / look.area
        for direction in query.directions:
            fit *= _closeness(look, direction) ** 2
        fits.append(fit)
    return fits


def _colour_fit(colours: Sequence[str], look: _Looks, config: RuleConfig) -> float:
    wanted = [NAMES.index(name) for name in colours]
    share, elsewhere = float(look.colours[wanted].sum()), float(look.elsewhere[wanted].sum())
    if share < config.colour_floor:
        return 0.0
    return float(share * (share / (share + elsewhere)) ** config.contrast)


def _closeness(look: _Looks, direction: str) -> float:
    """1 at the side that the direction names (or in the middle), 0 at the other."""
    match direction:
        case "left":
            return 1.0 - look.x
        case "right":
            return look.x
        case "top":
            return 1.0 - look.y
        case "bottom":
            return look.y
    return max(0.0, 1.0 - 2.0 * float(np.hypot(look.x - 0.5, look.y - 0.5)))


def _by_ordinal(ordinal: Ordinal, pairs: Sequence[tuple[Proposal, _Looks]], config: RuleConfig) -> list[Proposal]:
    """The proposals in the order that the ordinal counts, from the one it names on. Repeats are not counted."""
    best = pairs[0][0].score
    counted: list[tuple[Proposal, _Looks]] = []
    for each, look in pairs:
        if each.score >= config.countable * best and all(
            _overlap(each.mask, other.mask) < config.apart for other, _ in counted
        ):
            counted.append((each, look))
    counted.sort(key=lambda pair: _position(pair[1], ordinal.order))
    index = ordinal.rank - 1 if ordinal.rank > 0 else len(counted) - 1
    if index >= len(counted):
        raise UnusableReference(f"the text asks for number {ordinal.rank} of {len(counted)} objects that fit")
    return [each for each, _ in counted[index:]]


def _overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Shared area over the smaller one; never less than the IoU."""
    both = int((first & second).sum())
    return max(iou(first, second), both / max(1, min(int(first.sum()), int(second.sum()))))


def _position(look: _Looks, order: str) -> float:
    keys = {"left": look.x, "right": -look.x, "top": look.y, "bottom": -look.y, "largest": -look.area}
    return keys.get(order, look.area)
