"""A text or exemplar answered by an engine: what the client is told beside the mask."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines.errors import UnusableReference
from engines.prompts.resolver import ReferenceResolver
from engines.protocols import Grounding
from engines.types import Frame

FRAME: Frame = np.zeros((20, 30, 3), np.uint8)


class Segmenter:
    """Answers every reference with the same finding."""

    def __init__(self, found: Grounding, vocabulary: tuple[str, ...] = ()) -> None:
        self.found = found
        self.asked: list[dict[str, Any]] = []
        kinds = ("mask", "text", "exemplar")
        self.spec = SimpleNamespace(
            info=SimpleNamespace(name="made-up", reference_kinds=kinds, vocabulary=vocabulary),
        )

    def ground(self, frame: Frame, **reference: Any) -> Grounding:
        self.asked.append(reference)
        return self.found


def _map(*, seen: bool) -> np.ndarray:
    probability = np.zeros((20, 30), np.float32)
    probability[5:9, 6:12] = 0.9 if seen else 0.4
    return probability


def test_a_text_goes_to_the_engine_and_unknown_words_come_back() -> None:
    engine: Any = Segmenter(Grounding(_map(seen=True), 0.8, ("zebra", "unicorn")))
    resolved = ReferenceResolver().text([FRAME], "red zebra unicorn", engine)
    assert engine.asked == [{"text": "red zebra unicorn"}]
    assert resolved.mask.sum() == 24
    assert len(resolved.warnings) == 1
    assert "zebra, unicorn" in resolved.warnings[0]


def test_where_the_vocabulary_is_small_the_rules_read_the_text() -> None:
    frame = np.full((60, 90, 3), 190, np.uint8)
    frame[20:40, 30:55] = (200, 30, 35)
    engine: Any = Segmenter(Grounding(_map(seen=True), 0.8), vocabulary=("red",))
    resolved = ReferenceResolver("cpu").text([frame], "the red one", engine)
    assert engine.asked == []
    assert resolved.mask[22:38, 32:53].all() and resolved.mask.sum() < 700


def test_an_unsure_finding_says_so() -> None:
    engine: Any = Segmenter(Grounding(_map(seen=True), 0.12))
    resolved = ReferenceResolver().exemplar([FRAME], FRAME, FRAME[..., 0] + 1, engine)
    assert "score 0.12" in resolved.warnings[0]


def test_nothing_found_is_refused() -> None:
    engine: Any = Segmenter(Grounding(_map(seen=False), 0.9))
    with pytest.raises(UnusableReference, match="'red' was not found"):
        ReferenceResolver().text([FRAME], "red", engine)
