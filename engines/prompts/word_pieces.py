"""How many word pieces a text has, by a BERT vocabulary file. Standard library only, so the API can count too."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from engines.prompts.words import split_words


def count_pieces(text: str, vocabulary: frozenset[str]) -> int:
    """Pieces of all words by greedy longest match, continuations marked with `##`; an unknown word is one."""
    return sum(_pieces(word, vocabulary) for word in split_words(text))


@lru_cache(maxsize=2)
def read_vocabulary(path: Path) -> frozenset[str]:
    """One token a line."""
    return frozenset(path.read_text(encoding="utf-8").split("\n"))


def _pieces(word: str, vocabulary: frozenset[str]) -> int:
    start, count = 0, 0
    while start < len(word):
        mark = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in vocabulary), None)
        if end is None:
            return 1
        start, count = end, count + 1
    return count
