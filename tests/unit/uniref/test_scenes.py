"""Generated scenes and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest

from engines.errors import TrainingDataError
from engines.types import Size
from engines.uniref.attributes import Masks, colour_names, express, facts_of, phrases_of
from engines.uniref.scenes import SceneMaker, Still, without_objects
from engines.uniref.text import clean_expression
from engines.uniref.words import COLOURS, WORDS


def _boxes(*boxes: tuple[int, int, int, int, tuple[int, int, int]]) -> tuple[np.ndarray, Masks]:
    frame = np.full((100, 200, 3), 128, np.uint8)
    masks = np.zeros((len(boxes), 100, 200), bool)
    for index, (y, x, height, width, colour) in enumerate(boxes):
        masks[index, y : y + height, x : x + width] = True
        frame[masks[index]] = colour
    return frame, masks


RED, BLUE, GREEN = (210, 20, 25), (20, 40, 210), (20, 150, 30)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((10, 10, 10), "black"),
        ((245, 245, 245), "white"),
        ((128, 128, 128), "gray"),
        (RED, "red"),
        ((255, 140, 0), "orange"),
        ((240, 225, 30), "yellow"),
        (GREEN, "green"),
        (BLUE, "blue"),
        ((120, 30, 150), "purple"),
        ((255, 120, 180), "pink"),
        ((110, 65, 30), "brown"),
    ],
)
def test_colours_are_named(rgb: tuple[int, int, int], name: str) -> None:
    assert COLOURS[int(colour_names(np.array([rgb], np.uint8))[0])] == name


def test_phrases_are_true_of_their_objects_alone() -> None:
    facts = facts_of(*_boxes((40, 10, 20, 20, RED), (10, 80, 60, 50, BLUE), (60, 160, 20, 20, RED)))
    said = {(word, tuple(sorted(phrase.objects))) for phrase in phrases_of(facts) for word in phrase.words}
    assert {("red", (0, 2)), ("blue", (1,)), ("big", (1,)), ("leftmost", (0,)), ("middle", (1,))} <= said
    assert {("second ONE from the left", (1,)), ("first ONE from the right", (2,)), ("on the right", (2,))} <= said
    assert not any(word == "small" for word, _ in said)  # two are equally small


def test_expressions_single_one_object_out() -> None:
    facts = facts_of(*_boxes((40, 10, 20, 20, RED), (40, 80, 20, 20, BLUE), (40, 150, 20, 20, RED)))
    random = np.random.default_rng(0)
    said = [express(facts, 2, random) for _ in range(200)]
    texts = {expression.text for expression in said if expression is not None}
    assert not any(clean_expression(text).split() in (["the", "red", "one"], ["red"]) for text in texts)
    assert any("red" in text and "right" in text for text in texts)
    assert {expression.kind for expression in said if expression is not None} == {"position", "ordinal", "combined"}


def test_nothing_is_said_of_twins() -> None:
    facts = facts_of(*_boxes((40, 60, 20, 20, RED), (40, 60, 20, 20, RED)))
    assert express(facts, 0, np.random.default_rng(0)) is None


def _stills() -> list[Still]:
    stills = []
    for index, colour in enumerate((RED, BLUE, GREEN)):
        frame = np.random.default_rng(index).integers(90, 140, (80, 120, 3), dtype=np.uint8)
        labels = np.zeros((80, 120), np.uint8)
        labels[20:60, 30:80] = 1
        frame[labels == 1] = colour
        stills.append(Still(f"still{index}", frame, labels))
    return stills


def test_scenes_show_their_objects() -> None:
    stills = _stills()
    maker = SceneMaker(stills, [without_objects(still) for still in stills])
    random = np.random.default_rng(4)
    counts = set()
    for _ in range(30):
        scene = maker.draw(Size(64, 96), random)
        assert scene.frame.shape == (64, 96, 3)
        assert scene.masks.sum(0).max() == 1  # the nearer object hides the farther one
        counts.add(len(scene.masks))
        for expression in (express(facts_of(scene.frame, scene.masks), i, random) for i in range(len(scene.masks))):
            if expression is not None:
                assert set(expression.text.split()) <= set(WORDS)
    assert {1, 2, 3} <= counts


def test_scenes_repeat_with_their_seed() -> None:
    stills = _stills()
    maker = SceneMaker(stills, [without_objects(still) for still in stills])
    one, other = (maker.draw(Size(64, 96), np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(one.frame, other.frame)
    assert np.array_equal(one.masks, other.masks)


def test_painting_over_removes_the_object() -> None:
    still = _stills()[0]
    assert (without_objects(still)[still.labels == 1, 0].astype(int) < 160).all()


def test_no_material_is_an_error() -> None:
    with pytest.raises(TrainingDataError):
        SceneMaker([], [])
