"""Texts are counted in the tokens that the text encoder reads, by its own vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.catalog import CATALOG
from engines.prompts.word_pieces import count_pieces
from engines.uniref.text import WordPieces
from service.errors import InvalidInput
from service.reference_rules import check_text

TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "the",
    "sw",
    "##an",
    "swan",
    "##s",
    "un",
    "##believ",
    "##able",
    "b",
    "##ird",
]


@pytest.mark.parametrize(
    "text", ["the swans", "the unbelievable bird", "zebra the swan", "The b swan-bird", "unbeliev zzz"]
)
def test_pieces_are_those_of_the_tokenizer(text: str) -> None:
    framed = WordPieces(TOKENS).tokenize(text).ids
    assert count_pieces(text, frozenset(TOKENS)) == len(framed) - 2


def test_a_text_of_few_words_and_many_tokens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKSTREAM_WEIGHTS_DIR", str(tmp_path))
    text = "unbelievable " * 26
    assert check_text(text, CATALOG["uniref"], "text") == ()
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    with pytest.raises(InvalidInput, match="80 tokens and at most 77"):
        check_text(text, CATALOG["uniref"], "text")
    assert check_text("unbelievable " * 25, CATALOG["uniref"], "text") == ()
