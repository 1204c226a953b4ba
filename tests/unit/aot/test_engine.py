"""The engine's promises on tiny frames with fixed random weights; numbers are checked by tests/parity/aot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.aot.build import build
from engines.aot.config import STRIDE, VARIANTS
from engines.aot.engine import AotEngine
from engines.aot.model import AotNet
from engines.aot.track import AotTrack
from engines.banks.budget import smallest_budget
from engines.catalog import CATALOG
from engines.errors import BudgetTooSmall, FrameSizeChanged, NoReferenceFrame, StateMismatch, WeightsError
from engines.labels import compose
from engines.training.export import WeightsFacts, export_weights
from engines.transforms import network_size, resize_labels
from engines.types import Frame, LabelMap, MemoryPolicy, Prediction, Size
from tests.parity.weights import fill

SIZE = Size(64, 90)
TOKENS = 5 * 7
POLICY = MemoryPolicy(kind="adaptive", budget_tokens=6 * TOKENS, memorize_every=2)


@lru_cache
def _weights(name: str = "deaot-t") -> dict[str, Tensor]:
    shapes = {key: list(value.shape) for key, value in AotNet(VARIANTS[name]).state_dict().items()}
    return fill(shapes, {"encoder.": 1.4, "decoder.conv_out.": 5.0, "patch_wise_id_bank.": 2.0})


def _engine(*, deterministic: bool, name: str = "deaot-t") -> AotEngine:
    return build(
        name,
        weights=_weights(name),
        device=torch.device("cpu"),
        dtype=torch.float32,
        deterministic=deterministic,
        compile=False,
    )


@pytest.fixture(scope="module")
def engine() -> AotEngine:
    return _engine(deterministic=True)


@pytest.fixture(scope="module")
def batching() -> AotEngine:
    return _engine(deterministic=False)


def _frame(seed: int) -> Frame:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((8, 9, 1), dtype=np.uint8)))


def _labels(object_ids: Sequence[int]) -> LabelMap:
    """Each object a patch of 14 x 14 pixels."""
    label_map = np.zeros((SIZE.height, SIZE.width), dtype=np.uint8)
    for index, object_id in enumerate(object_ids):
        y, x = divmod(index, 5)
        label_map[1 + 16 * y : 15 + 16 * y, 1 + 17 * x : 15 + 17 * x] = object_id
    return label_map


def _open(engine: AotEngine, object_ids: Sequence[int], *, seed: int = 0, policy: MemoryPolicy = POLICY) -> AotTrack:
    track = engine.open(SIZE, policy)
    engine.memorize(track, _frame(seed), _labels(object_ids), object_ids=object_ids)
    return track


def _run(engine: AotEngine, track: AotTrack, seeds: Sequence[int]) -> list[Prediction]:
    return [engine.propagate([track], [_frame(seed)], probability=True)[0] for seed in seeds]


ELEVEN = [7, 254, 3, 20, 21, 22, 23, 24, 25, 26, 1]


def test_a_prediction_has_the_frames_size_and_the_clients_ids(engine: AotEngine) -> None:
    track = _open(engine, ELEVEN)
    prediction = _run(engine, track, [1])[0]
    assert prediction.label_map.shape == (SIZE.height, SIZE.width)
    assert prediction.label_map.dtype == np.uint8
    assert set(np.unique(prediction.label_map).tolist()) <= {0, *ELEVEN}
    assert prediction.probability is not None
    assert prediction.probability.shape == (12, SIZE.height, SIZE.width)
    torch.testing.assert_close(prediction.probability.sum(0), torch.ones(SIZE.height, SIZE.width))
    assert list(prediction.scores) == sorted(ELEVEN)
    assert len(track.groups) == 2
    assert track.object_ids == tuple(sorted(ELEVEN))


def _company(engine: AotEngine) -> list[AotTrack]:
    """One, three and eleven objects, different fills of the bank, and a track that has just started."""
    tracks = [
        _open(engine, [5]),
        _open(engine, [2, 9, 4], seed=50),
        _open(engine, ELEVEN, seed=60),
        _open(engine, [1], seed=70),
    ]
    _run(engine, tracks[0], range(1, 9))
    _run(engine, tracks[1], range(11, 14))
    _run(engine, tracks[2], range(21, 23))
    return tracks


def _together_and_alone(engine: AotEngine, steps: int) -> tuple[list[list[Prediction]], list[list[Prediction]]]:
    tracks, twins = _company(engine), _company(engine)
    assert len({track.bank_tokens for track in tracks}) > 1
    assert max(track.groups[0].memorized for track in tracks) == 4
    frames = [[_frame(1000 + 10 * i + t) for i in range(4)] for t in range(steps)]
    together = [engine.propagate(tracks, row, probability=True) for row in frames]
    alone = [
        [engine.propagate([twin], [f], probability=True)[0] for twin, f in zip(twins, row, strict=True)]
        for row in frames
    ]
    return together, alone


def test_company_changes_no_bit_when_deterministic(engine: AotEngine) -> None:
    together, alone = _together_and_alone(engine, steps=2)
    for row, other in zip(together, alone, strict=True):
        for a, b in zip(row, other, strict=True):
            np.testing.assert_array_equal(a.label_map, b.label_map)
            assert a.probability is not None
            assert b.probability is not None
            assert torch.equal(a.probability, b.probability)
            assert (a.scores, a.uncertainty) == (b.scores, b.uncertainty)


def test_a_mixed_batch_equals_each_track_alone(batching: AotEngine) -> None:
    together, alone = _together_and_alone(batching, steps=1)
    for a, b in zip(together[0], alone[0], strict=True):
        assert a.probability is not None
        assert b.probability is not None
        torch.testing.assert_close(a.probability, b.probability, rtol=0, atol=1e-4)


def test_a_restored_track_is_byte_equal_and_goes_on_the_same(engine: AotEngine) -> None:
    track = _open(engine, ELEVEN)
    _run(engine, track, range(1, 6))
    engine.forget(track, 22)
    state = engine.snapshot(track)
    twin = engine.restore(state)
    again = engine.snapshot(twin)
    assert again.meta == state.meta
    assert again.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(again.tensors[name], state.tensors[name]) for name in state.tensors)
    for a, b in zip(_run(engine, track, range(6, 10)), _run(engine, twin, range(6, 10)), strict=True):
        np.testing.assert_array_equal(a.label_map, b.label_map)
        assert a.scores == b.scores


def test_a_snapshot_of_other_weights_is_refused(engine: AotEngine) -> None:
    state = engine.snapshot(_open(engine, [1]))
    other = _weights() | {"decoder.conv_out.bias": torch.ones(11)}
    with pytest.raises(StateMismatch, match="weights_sha256"):
        build(
            "deaot-t",
            weights=other,
            device=torch.device("cpu"),
            dtype=torch.float32,
            deterministic=True,
            compile=False,
        ).restore(state)


def test_memory_is_bounded_and_fills_by_the_tracks_own_steps(engine: AotEngine) -> None:
    track = _open(engine, [1, 2], policy=MemoryPolicy(kind="window", budget_tokens=4 * TOKENS, memorize_every=3))
    lengths = []
    for prediction in range(1, 16):
        _run(engine, track, [prediction])
        lengths.append(track.bank_tokens)
    assert lengths[:2] == [TOKENS, TOKENS]
    assert max(lengths) <= 4 * TOKENS
    assert track.groups[0].last_memorized == 15
    assert track.bank_bytes < engine.track_bytes(SIZE, 2, track.memory)


def test_every_k_memorises_whole_frames_for_ever(engine: AotEngine) -> None:
    track = _open(engine, [1], policy=MemoryPolicy(kind="every_k", memorize_every=2))
    _run(engine, track, range(1, 8))
    assert track.bank_tokens == TOKENS * (1 + 3)


def test_a_forgotten_object_leaves_memory_and_its_channel_stays_unused(engine: AotEngine) -> None:
    track = _open(engine, [4, 6])
    _run(engine, track, range(1, 5))
    engine.forget(track, 4)
    group = track.groups[0]
    assert 1 not in group.long_term.bank.identity().tolist()
    assert 4 not in np.unique(_run(engine, track, [5])[0].label_map)
    engine.memorize(track, _frame(5), _labels([0, 0, 8]), object_ids=[8])
    assert group.slots.channels == {6: 2, 8: 3}
    with pytest.raises(KeyError, match="no object 4"):
        engine.forget(track, 4)
    engine.forget(track, 6)
    engine.forget(track, 8)
    assert track.groups == []
    assert not _run(engine, track, [6])[0].label_map.any()


def test_a_late_object_joins_and_background_that_looks_like_it_leaves(engine: AotEngine) -> None:
    track = _open(engine, [1])
    _run(engine, track, [0])  # the same picture again: the newcomer was there all along, called background
    before = track.groups[0].long_term.bank.identity()
    assert int((before == 2).sum()) == 0
    late = _labels([0, 0, 0, 9])
    engine.memorize(track, _frame(0), late, object_ids=[9])
    bank = track.groups[0].long_term.bank
    first_reference = bank.identity()[:-TOKENS]
    assert int((bank.identity() == 2).sum()) > 0
    assert first_reference.numel() < TOKENS
    assert track.object_ids == (1, 9)
    assert 1 in track.labels or 1 in _labels([1])  # the older object was kept where it was segmented


def test_objects_that_a_reference_does_not_speak_for_are_segmented_first(engine: AotEngine) -> None:
    track, twin = _open(engine, [1]), _open(engine, [1])
    engine.memorize(track, _frame(3), _labels([0, 0, 0, 9]), object_ids=[9])  # a frame that was never propagated
    _run(engine, twin, [3])
    expected = np.where(track.labels == 9, 0, twin.labels)
    np.testing.assert_array_equal(
        np.where(track.labels == 9, 0, track.labels), np.where(track.labels == 9, 0, expected)
    )
    assert track.steps == 0


def test_a_correction_replaces_the_prediction_and_is_read_from_then_on(engine: AotEngine) -> None:
    track, twin = _open(engine, [1, 2]), _open(engine, [1, 2])
    _run(engine, track, [1])
    before = _run(engine, twin, [1])[0]
    corrected = _labels([0, 0, 0, 0, 1])
    engine.memorize(track, _frame(1), corrected, object_ids=[1])
    expected = compose(resize_labels(corrected, track.network_size), twin.labels, [1])
    np.testing.assert_array_equal(track.labels, expected)
    after, unchanged = _run(engine, track, [2])[0], _run(engine, twin, [2])[0]
    assert before.scores != after.scores
    assert after.probability is not None
    assert unchanged.probability is not None
    assert not torch.equal(after.probability, unchanged.probability)
    assert track.object_ids == (1, 2)


def test_an_eleventh_object_opens_a_group_that_shares_the_budget(engine: AotEngine) -> None:
    track = _open(engine, list(range(1, 11)))
    assert len(track.groups) == 1
    engine.memorize(track, _frame(0), _labels([99]), object_ids=[99])
    assert len(track.groups) == 2
    budgets = [group.long_term.bank.budget_tokens for group in track.groups]
    assert budgets == [3 * TOKENS, 3 * TOKENS]
    assert set(_run(engine, track, [1])[0].scores) == {*range(1, 11), 99}


def test_wrong_use_is_refused_by_name(engine: AotEngine) -> None:
    track = engine.open(SIZE, POLICY)
    with pytest.raises(NoReferenceFrame):
        engine.propagate([track], [_frame(0)])
    with pytest.raises(FrameSizeChanged):
        engine.memorize(track, _frame(0), np.zeros((3, 3), dtype=np.uint8), object_ids=[1])
    with pytest.raises(BudgetTooSmall, match=f"smallest that works is {2 * TOKENS}"):
        engine.open(SIZE, MemoryPolicy(budget_tokens=TOKENS))
    other = engine.open(Size(128, 128), MemoryPolicy())
    other.started = track.started = True
    with pytest.raises(ValueError, match="one network size"):
        engine.propagate([track, other], [_frame(0), np.zeros((128, 128, 3), dtype=np.uint8)])


def test_weights_of_another_variant_are_named() -> None:
    with pytest.raises(WeightsError, match="does not fit deaot-t: .*looks like deaot-s"):
        build(
            "deaot-t",
            weights=_weights("deaot-s"),
            device=torch.device("cpu"),
            dtype=torch.float32,
            deterministic=True,
            compile=False,
        )


def test_weights_that_confuse_objects_get_one_pass_for_each(tmp_path: Path) -> None:
    """Alone in its group, an object is segmented exactly as if it were alone in the video, up to the aggregation."""
    path = tmp_path / "deaot-t.safetensors"
    export_weights(_weights(), path, WeightsFacts("deaot-t", 480, 2, "a test", objects_per_group=1))
    options = {"device": torch.device("cpu"), "dtype": torch.float32, "deterministic": True, "compile": False}
    engine = build("deaot-t", weights=path, **options)  # type: ignore[arg-type]
    policy = MemoryPolicy(kind="every_k")
    together, alone = _open(engine, [3, 7], policy=policy), engine.open(SIZE, policy)
    engine.memorize(alone, _frame(0), _labels([3, 7]), object_ids=[7])
    assert [group.slots.object_ids for group in together.groups] == [(3,), (7,)]
    for ours, theirs in zip(together.groups[1].short_term, alone.groups[0].short_term, strict=True):
        assert all(torch.equal(a.value, b.value) for a, b in zip(ours, theirs, strict=True))
    restored = engine.restore(engine.snapshot(together))
    engine.memorize(restored, _frame(1), _labels([3, 7, 9]), object_ids=[9])
    assert len(restored.groups) == 3, "a restored track keeps one object per pass"
    _run(engine, restored, [2])


@pytest.mark.parametrize("name", ["deaot-t", "r50-deaot-l", "swinb-aot-l", "aot-b"])
@pytest.mark.parametrize(
    "size", [Size(480, 854), Size(720, 1280), Size(2160, 3840), Size(3840, 2160), Size(48, 64), Size(97, 333)]
)
def test_the_catalog_knows_the_smallest_budget(name: str, size: Size) -> None:
    info = CATALOG[name]
    assert info.net_short_side is not None
    seen = network_size(size, short_side=info.net_short_side, plus_one=VARIANTS[name].align_corners)
    tokens = -(-seen.height // STRIDE) * -(-seen.width // STRIDE)
    assert info.smallest_budget_tokens(size.height, size.width, objects=1) == smallest_budget(tokens)
