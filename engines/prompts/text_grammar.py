"""A short English expression to a query: attributes to filter and rank by, and at most one ordinal. No picture here.

    expression := (glue | colour | lightness | size | direction | ordinal | unknown)*
    ordinal    := rank [size | colour ...] ["from" "the" direction]     "the second red one from the left"
An ordinal counts along the direction after it, else by the size beside it, else from the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from engines.errors import UnsupportedReference
from engines.prompts.words import COLOURS, DIRECTIONS, GLUE, LIGHTNESS, MEANINGFUL, ORDINALS, SIZES, split_words

Kind = Literal["colour", "size", "position", "ordinal", "combined"]
_KNOWN = frozenset(MEANINGFUL) | frozenset(GLUE)


@dataclass(frozen=True)
class Ordinal:
    """The `rank`-th in an order: 1 the first, -1 the last. order: left, right, top, bottom, largest or smallest."""

    rank: int
    order: str


@dataclass(frozen=True)
class TextQuery:
    """What an expression asks for. Empty fields ask for nothing.

    colours: names, any of which will do. lightness: -1 dark, 1 light. size: 1 large, -1 small. directions: where in the
    frame. unknown: words that mean nothing here.
    """

    colours: tuple[str, ...] = ()
    lightness: int = 0
    size: int = 0
    directions: tuple[str, ...] = ()
    ordinal: Ordinal | None = None
    unknown: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no word of the expression says which object is meant."""
        return replace(self, unknown=()) == TextQuery()

    @property
    def kind(self) -> Kind:
        """What tells the object apart; "combined" for more than one thing. Dark and light count as colours."""
        if self.ordinal is not None:
            return "ordinal"
        said: list[Kind] = []
        if self.colours or self.lightness:
            said.append("colour")
        if self.size:
            said.append("size")
        if self.directions:
            said.append("position")
        return said[0] if len(said) == 1 else "combined"


def parse(text: str, free_text_engines: Sequence[str] = ()) -> TextQuery:
    """Read an expression. Raises UnsupportedReference, worded for the client, if no word of it tells objects apart."""
    words = split_words(text)
    query = TextQuery(
        colours=_meanings(words, COLOURS),
        lightness=next((LIGHTNESS[word] for word in words if word in LIGHTNESS), 0),
        size=next((SIZES[word] for word in words if word in SIZES), 0),
        directions=_meanings(words, DIRECTIONS),
        unknown=tuple(dict.fromkeys(word for word in words if word not in _KNOWN)),
    )
    query = _with_ordinal(query, words)
    if query.is_empty:
        raise UnsupportedReference(no_known_word(text, free_text_engines))
    return query


def no_known_word(text: str, free_text_engines: Sequence[str] = ()) -> str:
    """The message for a text that names nothing known."""
    free = f"; engines that take free text: {', '.join(free_text_engines)}" if free_text_engines else ""
    return f"no word of {text!r} tells objects apart here. Known words: {', '.join(MEANINGFUL)}{free}"


def _meanings(words: Sequence[str], table: dict[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(table[word] for word in words if word in table))


def _with_ordinal(query: TextQuery, words: Sequence[str]) -> TextQuery:
    """Take the ordinal out of the words, with the direction or size that it counts by."""
    index = next((i for i, word in enumerate(words) if word in ORDINALS), None)
    if index is None:
        return query
    rank, after = ORDINALS[words[index]], words[index + 1 :]
    direction = next((DIRECTIONS[word] for word in after if DIRECTIONS.get(word, "middle") != "middle"), None)
    if direction is not None:
        rest = tuple(each for each in query.directions if each != direction)
        return replace(query, ordinal=Ordinal(rank, direction), directions=rest)
    if query.size:
        order = "largest" if query.size > 0 else "smallest"
        return replace(query, ordinal=Ordinal(rank, order), size=0)
    return replace(query, ordinal=Ordinal(rank, "left"))
