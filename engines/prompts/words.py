"""What each word of the small vocabulary means: colours, sizes, positions, ordinals, and words without a meaning.

Imports nothing, so the catalog can name the words without torch. The words are those of `uniref-t` and some synonyms.
"""

from __future__ import annotations

import re

COLOURS = {
    "black": "black", "white": "white", "gray": "gray", "grey": "gray", "silver": "gray", "red": "red",
    "orange": "orange", "yellow": "yellow", "golden": "yellow", "green": "green", "blue": "blue", "cyan": "blue",
    "purple": "purple", "violet": "purple", "pink": "pink", "brown": "brown", "beige": "brown",
}  # fmt: skip
LIGHTNESS = {"dark": -1, "darker": -1, "darkest": -1, "light": 1, "lighter": 1, "bright": 1, "brightest": 1}
SIZES = {
    "big": 1, "bigger": 1, "biggest": 1, "large": 1, "larger": 1, "largest": 1, "huge": 1,
    "small": -1, "smaller": -1, "smallest": -1, "tiny": -1, "little": -1,
}  # fmt: skip
DIRECTIONS = {
    "left": "left", "leftmost": "left", "right": "right", "rightmost": "right",
    "top": "top", "topmost": "top", "upper": "top", "above": "top", "highest": "top",
    "bottom": "bottom", "lower": "bottom", "below": "bottom", "lowest": "bottom",
    "middle": "middle", "center": "middle", "centre": "middle", "central": "middle",
}  # fmt: skip
ORDINALS = {
    "first": 1, "1st": 1, "second": 2, "2nd": 2, "third": 3, "3rd": 3, "fourth": 4, "4th": 4, "fifth": 5, "5th": 5,
    "last": -1,
}  # fmt: skip
GLUE = (
    "the", "a", "an", "one", "object", "thing", "in", "on", "at", "to", "of", "from", "with", "and", "side", "part",
    "it", "is", "that", "which", "most", "far", "very",
)  # fmt: skip

MEANINGFUL: tuple[str, ...] = (*COLOURS, *LIGHTNESS, *SIZES, *DIRECTIONS, *ORDINALS)
WORDS: tuple[str, ...] = (*MEANINGFUL, *GLUE)


def split_words(text: str) -> list[str]:
    """Lower-case words of a text; punctuation and hyphens part them."""
    return re.findall(r"[^\W_]+", text.lower())
