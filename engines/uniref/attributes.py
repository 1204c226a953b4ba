"""What can be said of the objects of a scene from their masks alone, and expressions that single one out.

Colours are named by hue and chroma in CIE Lab, sizes by area, places by centroid. The rules that read texts name
colours by nearest samples instead (`engines.prompts.colours`): were both the same, they would be measured against
themselves. A phrase is used only if it is true of one object and clearly false of all others, so every expression has
one right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engines.prompts.colours import to_lab
from engines.types import Frame
from engines.uniref.words import COLOURS

Masks = NDArray[np.bool_]
"""[K, H, W], one per object."""

_HAS_COLOUR, _LACKS_COLOUR = 0.45, 0.2
_AREA_RATIO = 1.4
_GAP = 0.08
_ORDINALS = (("first", "1st"), ("second", "2nd"), ("third", "3rd"), ("fourth", "4th"))


@dataclass(frozen=True)
class Facts:
    """One object. colours: share of its pixels by colour name. area: share of the frame. x, y: centroid, 0..1."""

    colours: dict[str, float]
    area: float
    x: float
    y: float


def colour_names(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[N, 3] RGB to [N] index into COLOURS."""
    lab = to_lab(pixels[None])[0]
    light, a, b = lab[:, 0], lab[:, 1], lab[:, 2]
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    gray = np.select([light < 30, light > 78], [COLOURS.index("black"), COLOURS.index("white")], COLOURS.index("gray"))
    edges = np.array([48.0, 78.0, 112.0, 200.0, 306.0, 328.0, 360.0])
    hues = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "red")
    named = np.array([COLOURS.index(name) for name in hues])[np.searchsorted(edges, hue)]
    warm_and_dull = (np.isin(named, [COLOURS.index("red"), COLOURS.index("orange")])) & (chroma < 45) & (light < 62)
    named = np.where(warm_and_dull | ((named == COLOURS.index("orange")) & (light < 50)), COLOURS.index("brown"), named)
    named = np.where((named == COLOURS.index("red")) & (light > 65), COLOURS.index("pink"), named)
    colourless = (chroma < 14) | (light < 12)
    return np.where(colourless, gray, named).astype(np.int64)


def facts_of(frame: Frame, masks: Masks) -> list[Facts]:
    """Facts of every object; masks must not be empty."""
    found = []
    height, width = masks.shape[1:]
    for mask in masks:
        y, x = np.nonzero(mask)
        pixels = frame[y, x]
        count = np.bincount(colour_names(pixels[:: max(1, len(pixels) // 500)]), minlength=len(COLOURS))
        shares = {name: float(share) for name, share in zip(COLOURS, count / count.sum(), strict=True)}
        found.append(
            Facts(shares, len(y) / mask.size, float((x.mean() + 0.5) / width), float((y.mean() + 0.5) / height))
        )
    return found


@dataclass(frozen=True)
class Phrase:
    """Something that is true of a set of objects. kind: colour, size, position, ordinal."""

    kind: str
    words: tuple[str, ...]
    objects: frozenset[int]
    after: bool


def _colour_phrases(facts: Sequence[Facts]) -> list[Phrase]:
    phrases = []
    for name in COLOURS:
        shares = [fact.colours[name] for fact in facts]
        having = frozenset(i for i, share in enumerate(shares) if share >= _HAS_COLOUR)
        if having and all(i in having or share < _LACKS_COLOUR for i, share in enumerate(shares)):
            words = (name, *{"gray": ("grey",), "purple": ("violet",)}.get(name, ()))
            phrases.append(Phrase("colour", words, having, after=False))
    return phrases


def _extreme(values: Sequence[float], clear: Callable[[float, float], bool]) -> int | None:
    """The index of the largest value, if it is clearly so."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    return order[0] if len(order) > 1 and clear(values[order[0]], values[order[1]]) else None


def _size_phrases(facts: Sequence[Facts]) -> list[Phrase]:
    areas = [fact.area for fact in facts]
    big = _extreme(areas, lambda first, second: first > _AREA_RATIO * second)
    small = _extreme([-area for area in areas], lambda first, second: -second > -first * _AREA_RATIO)
    named = [
        (big, ("big", "large", "biggest", "largest", "huge", "bigger", "larger")),
        (small, ("small", "smallest", "tiny", "smaller")),
    ]
    return [Phrase("size", words, frozenset([i]), after=False) for i, words in named if i is not None]


def _position_phrases(facts: Sequence[Facts]) -> list[Phrase]:
    def far(first: float, second: float) -> bool:
        return first - second > _GAP

    sides = {
        ("on the left", "at the left", "to the left", "on the left side"): [-fact.x for fact in facts],
        ("on the right", "at the right", "to the right", "on the right side"): [fact.x for fact in facts],
        ("at the top", "above", "on top"): [-fact.y for fact in facts],
        ("at the bottom", "below"): [fact.y for fact in facts],
    }
    before = (
        ("left", "leftmost", "left most", "far left"),
        ("right", "rightmost", "right most", "far right"),
        ("top", "upper", "topmost", "highest"),
        ("bottom", "lower", "lowest"),
    )
    phrases = []
    for (behind, values), adjectives in zip(sides.items(), before, strict=True):
        index = _extreme(values, far)
        if index is not None:
            phrases.append(Phrase("position", adjectives, frozenset([index]), after=False))
            phrases.append(Phrase("position", behind, frozenset([index]), after=True))
    order = _clear_order([fact.x for fact in facts])
    if order is not None and len(order) == 3:
        phrases.append(
            Phrase("position", ("middle", "center", "centre", "central"), frozenset([order[1]]), after=False)
        )
        phrases.append(Phrase("position", ("in the middle", "in the center"), frozenset([order[1]]), after=True))
    return phrases


def _clear_order(values: Sequence[float]) -> list[int] | None:
    order = sorted(range(len(values)), key=lambda i: values[i])
    clear = all(values[b] - values[a] > _GAP for a, b in pairwise(order))
    return order if clear and len(order) > 1 else None


def _ordinal_phrases(facts: Sequence[Facts]) -> list[Phrase]:
    starts = {
        "left": [fact.x for fact in facts],
        "right": [-fact.x for fact in facts],
        "top": [fact.y for fact in facts],
        "bottom": [-fact.y for fact in facts],
    }
    phrases = []
    for side, values in starts.items():
        order = _clear_order(values)
        for place, index in enumerate(order or ()):
            names = _ORDINALS[place] if place < len(_ORDINALS) else ()
            words = tuple(f"{name} ONE from the {side}" for name in names)
            if words:
                phrases.append(Phrase("ordinal", words, frozenset([index]), after=False))
    return phrases


def phrases_of(facts: Sequence[Facts]) -> list[Phrase]:
    """All that is clearly true of some and clearly false of the others."""
    return [*_colour_phrases(facts), *_size_phrases(facts), *_position_phrases(facts), *_ordinal_phrases(facts)]


@dataclass(frozen=True)
class Expression:
    """A text that means exactly one object. kind: that of its phrase, "combined" for several, "plain" for none."""

    text: str
    kind: str


def express(facts: Sequence[Facts], target: int, random: np.random.Generator) -> Expression | None:
    """A random expression for one object, or None if nothing singles it out."""
    true = [phrase for phrase in phrases_of(facts) if target in phrase.objects]
    options: list[list[Phrase]] = [[phrase] for phrase in true if len(phrase.objects) == 1]
    options += [
        [one, other]
        for i, one in enumerate(true)
        for other in true[i + 1 :]
        if one.objects & other.objects == {target}
        and one.kind != other.kind
        and "ordinal" not in (one.kind, other.kind)
    ]
    if len(facts) == 1:
        options += [[]] * (1 + len(options) // 3)
    if not options:
        return None
    kinds = sorted({_kind(option) for option in options})
    kind = kinds[int(random.integers(len(kinds)))]
    fitting = [option for option in options if _kind(option) == kind]
    return Expression(_worded(fitting[int(random.integers(len(fitting)))], random), kind)


def _kind(phrases: Sequence[Phrase]) -> str:
    return "plain" if not phrases else phrases[0].kind if len(phrases) == 1 else "combined"


def _worded(phrases: Sequence[Phrase], random: np.random.Generator) -> str:
    noun = ("one", "object", "thing", "")[int(random.integers(4))]
    chosen = [(phrase, phrase.words[int(random.integers(len(phrase.words)))]) for phrase in phrases]
    before = [word for phrase, word in chosen if not phrase.after]
    random.shuffle(before)
    behind = [word for phrase, word in chosen if phrase.after]
    article = "the" if random.random() < 0.8 else ""
    if any("ONE" in word for word in before):
        return " ".join([article, *before]).replace("ONE", noun).replace("  ", " ").strip()
    return " ".join(part for part in [article, *before, noun or ("" if before else "one"), *behind] if part)
