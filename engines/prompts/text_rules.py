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
    """prior: power of the proposal's own probability beside a colour.

    colour_floor: share of a mask's pixels that must have the colour asked for. contrast: power of how far the colour
    is the mask's rather than that of the rest of the frame: what has few pixels of a colour that nothing else has is
    meant, not the largest piece of what everything is made of. nearly, same_thing: share of the best score,
    and of the smaller of it and the best mask, from which a proposal has a say in where the object ends.

    Where objects are counted or compared: apart, apart_iou: those that share less than this of the smaller one's area,
    and less than this IoU, are two. sure_fit: fit of a colour from which it is no doubt meant. trust: power of a
    probability there. least: under it there is no object, unless there is none likelier.
    """

    prior: float = 0.8
    colour_floor: float = 0.1
    contrast: float = 0.5
    nearly: float = 0.5
    same_thing: float = 0.5
    apart: float = 0.5
    apart_iou: float = 0.3
    sure_fit: float = 0.3
    trust: float = 0.7
    least: float = 0.05


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

    proposals: of this frame; where any are counted or compared, their scores are probabilities of being an object.
    Raises UnusableReference, worded for the client, if none fits.
    """
    config = config or RuleConfig()
    looks = _describe(frame, proposals)
    fits = np.array([_own_fit(query, look, config) for look in looks])
    chances = np.array([each.score for each in proposals])
    nothing = UnusableReference(f"nothing in the frame is {_words(query)}; {len(proposals)} regions were looked at")
    if not (fits * chances > 0).any():
        raise nothing
    orders = _orders(query)
    if orders:
        if query.colours or query.lightness:
            chances = chances * np.minimum(1.0, fits / config.sure_fit)
        counted = _apart(proposals, chances, config)
        scores = _ranked(orders, looks, chances**config.trust, counted)
        if query.ordinal is not None and not scores.any():
            raise UnusableReference(f"the text asks for number {query.ordinal.rank} of {len(counted)} objects that fit")
    else:
        scores = fits * chances**config.prior
    for direction in _areas(query):
        scores = scores * np.array([_closeness(look, direction) ** 2 for look in looks])
    scored = [Proposal(each.mask, float(score)) for each, score in zip(proposals, scores, strict=True) if score > 0.0]
    if not scored:
        raise nothing
    return sorted(scored, key=lambda each: each.score, reverse=True)


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


def _own_fit(query: TextQuery, look: _Looks, config: RuleConfig) -> float:
    """How well a proposal has the attributes that need no other beside it, 0..1."""
    fit = _colour_fit(query.colours, look, config) if query.colours else 1.0
    if query.lightness:
        fit *= look.lightness if query.lightness > 0 else 1.0 - look.lightness
    return fit


def _areas(query: TextQuery) -> tuple[str, ...]:
    """Directions that mean a part of the frame: the middle, and corners. A side alone means the outermost there."""
    return query.directions if len(query.directions) > 1 or "middle" in query.directions else ()


def _orders(query: TextQuery) -> list[Ordinal]:
    """What objects are counted by: the ordinal, and the outermost or largest of all."""
    orders = [] if query.ordinal is None else [query.ordinal]
    if not _areas(query):
        orders += [Ordinal(1, direction) for direction in query.directions]
    if query.size:
        orders.append(Ordinal(1, "largest" if query.size > 0 else "smallest"))
    return orders


def _apart(proposals: Sequence[Proposal], chances: NDArray[np.float64], config: RuleConfig) -> list[int]:
    """Indices of the likeliest proposals of which no two are one object; one at least, however unlikely."""
    counted: list[int] = []
    for index in np.argsort(-chances, kind="stable"):
        if counted and chances[index] < config.least:
            break
        mask = proposals[index].mask
        others = (proposals[other].mask for other in counted)
        if all(_overlap(mask, other) < config.apart and iou(mask, other) < config.apart_iou for other in others):
            counted.append(int(index))
    return counted


def _ranked(
    orders: Sequence[Ordinal], looks: Sequence[_Looks], chances: NDArray[np.float64], counted: Sequence[int]
) -> NDArray[np.float64]:
    """[n] probability of being there and having just as many before it as every order says; 0 for those not counted.

    Proposals are objects independently of each other: a doubtful one before an object makes its rank doubtful.
    """
    scores = np.zeros(len(looks))
    for index in counted:
        scores[index] = chances[index]
        for ordinal in orders:
            place = _position(looks[index], ordinal.order)
            others = [other for other in counted if other != index]
            first = [
                other for other in others if (_position(looks[other], ordinal.order) < place) == (ordinal.rank > 0)
            ]
            scores[index] *= _exactly(chances[first], max(0, ordinal.rank - 1))
    return scores


def _exactly(chances: NDArray[np.float64], count: int) -> float:
    """Probability that `count` of independent events happen."""
    if count > len(chances):
        return 0.0
    by_count = np.zeros(len(chances) + 1)
    by_count[0] = 1.0
    for chance in chances:
        by_count[1:] = by_count[1:] * (1.0 - chance) + by_count[:-1] * chance
        by_count[0] *= 1.0 - chance
    return float(by_count[count])


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


def _overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Shared area over the smaller one; never less than the IoU."""
    both = int((first & second).sum())
    return max(iou(first, second), both / max(1, min(int(first.sum()), int(second.sum()))))


def _position(look: _Looks, order: str) -> float:
    keys = {"left": look.x, "right": -look.x, "top": look.y, "bottom": -look.y, "largest": -look.area}
    return keys.get(order, look.area)
