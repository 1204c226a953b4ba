"""The vocabulary of `uniref-t`: colours, sizes, positions, ordinals, and the small words between them.

Imports nothing, so the catalog can name the words without torch.
"""

from __future__ import annotations

COLOURS = ("black", "white", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SYNONYMS = ("grey", "violet", "dark", "bright", "light")
SIZES = ("big", "bigger", "biggest", "large", "larger", "largest", "small", "smaller", "smallest", "tiny", "huge")
POSITIONS = (
    "left", "right", "top", "bottom", "upper", "lower", "middle", "center", "centre", "central", "leftmost",
    "rightmost", "topmost", "highest", "lowest", "most", "far", "above", "below",
)  # fmt: skip
ORDINALS = ("first", "second", "third", "fourth", "1st", "2nd", "3rd", "4th", "last")
GLUE = ("the", "a", "one", "object", "thing", "in", "on", "at", "to", "of", "from", "with", "and", "side", "part", "it")

WORDS: tuple[str, ...] = (*COLOURS, *SYNONYMS, *SIZES, *POSITIONS, *ORDINALS, *GLUE)
