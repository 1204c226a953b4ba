"""The target model against a float64 oracle, and its place in a track."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.aot.build import build
from engines.aot.cells import pool_cells
from engines.aot.config import VARIANTS
from engines.aot.engine import AotEngine
from engines.aot.model import AotNet
from engines.aot.target_model import (
    CELL_PX,
    RIDGE,
    TargetModel,
    ridge_sums,
    score,
    state_bytes,
    target_features,
)
from engines.aot.track import AotTrack
from engines.errors import StateMismatch, WeightsError
from engines.labels import Slots
from engines.training.export import WeightsFacts, export_weights
from engines.types import Frame, LabelMap, MemoryPolicy, Prediction, Size
from tests.parity.weights import fill

WIDTHS = (3, 4, 5, 6)
SIDES = {True: (17, 9, 5, 5), False: (16, 8, 4, 4)}
"""Sides of the four maps of a picture of 65 pixels (corners aligned) or 64."""


def _maps(align_corners: bool, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(1, width, side, side) for width, side in zip(WIDTHS, SIDES[align_corners], strict=True)]


def _halves(side: int) -> LabelMap:
    """Object 4 on the left, 9 in a corner on the right."""
    labels = np.zeros((side, side), dtype=np.uint8)
    labels[:, : side // 2] = 4
    labels[: side // 3, -side // 3 :] = 9
    return labels


@pytest.mark.parametrize("align_corners", [True, False])
def test_scores_are_those_of_a_balanced_ridge_regression(align_corners: bool) -> None:
    maps, later = _maps(align_corners), _maps(align_corners, seed=1)
    labels = _halves(65 if align_corners else 64)
    model = TargetModel(1.0, align_corners)
    model.learn(maps, labels, (9, 4))
    assert model.ids == [0, 4, 9]

    x = target_features(maps, align_corners=align_corners)[0].flatten(1).double().numpy()
    shown = torch.from_numpy(np.stack([labels == i for i in model.ids])).double()[None]
    y = pool_cells(shown, CELL_PX, align_corners=align_corners)[0].flatten(1).numpy()
    each = (y / y.sum(axis=1, keepdims=True)).sum(axis=0) / 3
    wanted = np.linalg.solve((x * each) @ x.T + RIDGE * np.eye(len(x)), (x * each) @ y.T)
    np.testing.assert_allclose(model.weights[0].numpy(), wanted, atol=2e-3)

    seen = target_features(later, align_corners=align_corners)[0].double().numpy()
    expected = np.einsum("dhw,dc->chw", seen, model.weights[0].double().numpy()).clip(-0.5, 1.5)
    found = score(later, model.weights, align_corners=align_corners)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("side", [65, 64])
def test_cells_hold_shares_of_their_pixels(side: int) -> None:
    everywhere = torch.tensor([0.25, 0.5])[:, None, None].expand(1, 2, side, side)
    shares = pool_cells(everywhere, CELL_PX, align_corners=side == 65)
    assert shares.shape[-2:] == ((9, 9) if side == 65 else (8, 8))
    torch.testing.assert_close(shares.amin(dim=(0, 2, 3)), torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(shares.amax(dim=(0, 2, 3)), torch.tensor([0.25, 0.5]))


def test_references_count_alike_and_labels_however_small() -> None:
    maps, labels = _maps(True), _halves(65)
    once, twice = TargetModel(1.0, True), TargetModel(1.0, True)
    once.learn(maps, labels, (4, 9))
    for _ in range(2):
        twice.learn(maps, labels, (4, 9))
    torch.testing.assert_close(twice.weights, once.weights, atol=1e-4, rtol=1e-4)
    gram, _ = ridge_sums(torch.ones(1, 1, 2, 5), torch.eye(2).repeat_interleave(5, dim=1).view(1, 2, 2, 5))
    assert float(gram) == pytest.approx(1.0)


def test_a_newcomer_gets_a_column_and_a_forgotten_one_becomes_background() -> None:
    maps, labels = _maps(True), _halves(65)
    model, without = TargetModel(1.0, True), TargetModel(1.0, True)
    model.learn(maps, np.where(labels == 4, 4, 0).astype(np.uint8), (4,))
    model.learn(_maps(True, seed=2), labels, (4, 9))
    assert model.ids == [0, 4, 9]
    assert model.nbytes == state_bytes(WIDTHS, 2)
    model.forget(9)
    model.forget(77)
    assert model.ids == [0, 4]
    assert model.weights.shape[-1] == 2
    without.learn(maps, labels, (4,))
    assert without.ids == [0, 4]


def test_others_objects_are_background_to_a_group() -> None:
    maps, labels = _maps(True), _halves(65)
    model = TargetModel(2.0, True)
    slots = [Slots((1, 2), {4: 2}), Slots((1, 2), {9: 1})]
    logits = [torch.zeros(3, 17, 17), torch.zeros(2, 17, 17)]
    assert model.add_scores(maps, logits, slots)[0] is logits[0], "nothing learnt, nothing added"
    model.learn(maps, labels, (4, 9))
    first, second = model.add_scores(maps, logits, slots)
    torch.testing.assert_close(first.sum(dim=0), second.sum(dim=0))
    assert float(first[1].abs().max()) == 0.0, "a channel without an object"
    torch.testing.assert_close(first[0] + first[2] - second[1], second[0])
    assert float((first[2] - second[1]).abs().max()) > 0.5


SIZE = Size(64, 90)
POLICY = MemoryPolicy(kind="adaptive", budget_tokens=6 * 35, memorize_every=2)


@pytest.fixture(scope="module")
def with_target(tmp_path_factory: pytest.TempPathFactory) -> AotEngine:
    return _engine(tmp_path_factory.mktemp("weights"), target_gain=3.0, objects_per_group=2)


def _engine(folder: Path, **facts: float | str) -> AotEngine:
    path = folder / "deaot-t.safetensors"
    shapes = {key: list(value.shape) for key, value in AotNet(VARIANTS["deaot-t"]).state_dict().items()}
    tensors = fill(shapes, {"encoder.": 1.4, "decoder.conv_out.": 5.0, "patch_wise_id_bank.": 2.0})
    export_weights(tensors, path, WeightsFacts("deaot-t", 480, 2, "a test", **facts))  # type: ignore[arg-type]
    options = {"device": torch.device("cpu"), "dtype": torch.float32, "deterministic": True, "compile": False}
    return build("deaot-t", weights=path, **options)  # type: ignore[arg-type]


def _frame(seed: int) -> Frame:
    random = np.random.default_rng(seed)
    return np.ascontiguousarray(np.kron(random.integers(0, 256, (8, 10, 3), np.uint8), np.ones((8, 9, 1), np.uint8)))


def _labels(object_ids: Sequence[int]) -> LabelMap:
    labels = np.zeros((SIZE.height, SIZE.width), dtype=np.uint8)
    for index, object_id in enumerate(object_ids):
        labels[8:40, 4 + 20 * index : 20 + 20 * index] = object_id
    return labels


def _run(engine: AotEngine, track: AotTrack, seeds: Sequence[int]) -> list[Prediction]:
    return [engine.propagate([track], [_frame(seed)])[0] for seed in seeds]


def test_a_track_with_a_target_model_goes_on_from_a_snapshot_as_it_was(with_target: AotEngine) -> None:
    track = with_target.open(SIZE, POLICY)
    with_target.memorize(track, _frame(0), _labels([5, 6, 8]), object_ids=(5, 6, 8))
    _run(with_target, track, range(1, 4))
    with_target.memorize(track, _frame(4), _labels([5, 6, 8, 2]), object_ids=(2,))
    with_target.forget(track, 6)
    assert track.target is not None
    assert track.target.ids == [0, 5, 8, 2]
    assert track.target.references == 2
    assert track.bank_bytes < with_target.track_bytes(SIZE, 4, POLICY)
    twin = with_target.restore(with_target.snapshot(track))
    for a, b in zip(_run(with_target, track, range(5, 8)), _run(with_target, twin, range(5, 8)), strict=True):
        np.testing.assert_array_equal(a.label_map, b.label_map)
        assert a.scores == b.scores


def test_its_memory_does_not_grow(with_target: AotEngine) -> None:
    track = with_target.open(SIZE, POLICY)
    sizes = set()
    for seed in range(4):
        with_target.memorize(track, _frame(seed), _labels([5, 6]), object_ids=(5, 6))
        assert track.target is not None
        sizes.add(track.target.nbytes)
    assert len(sizes) == 1


def test_it_finds_a_reference_again_with_untrained_features(with_target: AotEngine) -> None:
    track = with_target.open(SIZE, MemoryPolicy())
    labels = _labels([5, 6])
    with_target.memorize(track, _frame(0), labels, object_ids=(5, 6))
    maps = with_target._encode([track], [_frame(0)]).maps
    assert track.target is not None
    found = np.array(track.target.ids)[score(maps, track.target.weights, align_corners=True)[0].argmax(dim=0).numpy()]
    sides = zip(labels.shape, found.shape, strict=True)
    rows, columns = (np.linspace(0, side - 1, cells).round().astype(int) for side, cells in sides)
    assert float((found == labels[np.ix_(rows, columns)]).mean()) > 0.85


def test_a_snapshot_without_one_is_refused(with_target: AotEngine, tmp_path: Path) -> None:
    plain = _engine(tmp_path)
    track = plain.open(SIZE, POLICY)
    assert track.target is None
    plain.memorize(track, _frame(0), _labels([5]), object_ids=(5,))
    with pytest.raises(StateMismatch, match="weights_sha256"):
        with_target.restore(plain.snapshot(track))


@pytest.mark.parametrize("gain", ["much", "nan"])
def test_a_gain_that_is_no_number_is_named(tmp_path: Path, gain: str) -> None:
    with pytest.raises(WeightsError, match="'target_gain' is"):
        _engine(tmp_path, target_gain=gain)
