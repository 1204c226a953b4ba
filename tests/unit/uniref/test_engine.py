"""The engine on the light variant with untrained weights: what it keeps, refuses and promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engines import registry
from engines.errors import (
    BudgetTooSmall,
    FrameSizeChanged,
    NoReferenceFrame,
    StateMismatch,
    UnsupportedReference,
    WeightsError,
)
from engines.protocols import Engine, ReferenceSegmenter
from engines.types import Frame, LabelMap, MemoryPolicy, Size
from engines.uniref.config import VARIANTS
from engines.uniref.engine import Rules, UniRefEngine, _scales
from engines.uniref.model import UniRef
from engines.uniref.text import Words
from engines.uniref.track import UniRefTrack
from engines.uniref.words import WORDS

SIZE = Size(60, 90)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights as a file; classes likely and fusion open, so that references matter."""
    torch.manual_seed(3)
    network = UniRef(VARIANTS["uniref-t"])
    with torch.no_grad():
        for head in network.transformer.class_embed:
            head.bias.fill_(2.0)  # type: ignore[operator]
        for name, parameter in network.named_parameters():
            if "adaLN" in name:
                parameter.normal_(0, 0.3)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path, {"net_short_side": "64"})
    return path


@pytest.fixture(scope="module")
def engine(weights: Path) -> UniRefEngine:
    made = registry.create("uniref-t", weights=weights, device="cpu")
    assert isinstance(made, UniRefEngine)
    return made


def _frame(seed: int, size: Size = SIZE) -> Frame:
    return np.random.default_rng(seed).integers(0, 255, (size.height, size.width, 3), dtype=np.uint8)


def _labels() -> LabelMap:
    labels = np.zeros((SIZE.height, SIZE.width), np.uint8)
    labels[10:40, 5:30] = 2
    labels[20:50, 50:80] = 7
    return labels


def _started(engine: UniRefEngine) -> UniRefTrack:
    track = engine.open(SIZE, MemoryPolicy())
    engine.memorize(track, _frame(0), _labels(), object_ids=[2, 7])
    return track


def _same(a: UniRefTrack, b: UniRefTrack, engine: UniRefEngine) -> None:
    one, other = engine.snapshot(a), engine.snapshot(b)
    assert one.meta == other.meta
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_it_is_an_engine_and_a_reference_segmenter(engine: UniRefEngine) -> None:
    assert isinstance(engine, Engine)
    assert isinstance(engine, ReferenceSegmenter)
    assert engine.spec.net_short_side == 64


def test_predictions_name_the_clients_ids(engine: UniRefEngine) -> None:
    track = _started(engine)
    prediction = engine.propagate([track], [_frame(1)], probability=True)[0]
    assert prediction.label_map.shape == (SIZE.height, SIZE.width)
    assert set(np.unique(prediction.label_map)) <= {0, 2, 7}
    assert prediction.scores.keys() == prediction.uncertainty.keys() == {2, 7}
    assert prediction.probability is not None
    torch.testing.assert_close(prediction.probability.sum(0), torch.ones(SIZE.height, SIZE.width))
    assert (track.steps, track.object_ids) == (1, (2, 7))


def test_a_reference_matters(engine: UniRefEngine) -> None:
    one, other = engine.open(SIZE, MemoryPolicy()), engine.open(SIZE, MemoryPolicy())
    engine.memorize(one, _frame(0), _labels(), object_ids=[2])
    engine.memorize(other, _frame(0), _labels() * 0 + 2, object_ids=[2])
    maps = [engine.propagate([track], [_frame(1)], probability=True)[0].probability for track in (one, other)]
    assert maps[0] is not None and maps[1] is not None
    assert not torch.equal(maps[0], maps[1])


def test_memory_is_bounded(engine: UniRefEngine) -> None:
    track = _started(engine)
    sizes = []
    for step in range(6):
        engine.memorize(track, _frame(step), _labels(), object_ids=[2, 7])
        engine.propagate([track], [_frame(step + 1)])
        sizes.append(track.bank_bytes)
    # An object that is not surely seen has no previous frame, so a step may hold less than the one before.
    assert max(sizes[3:]) <= max(sizes[:3]) <= engine.track_bytes(SIZE, 2, MemoryPolicy())


def test_objects_of_one_frame_share_its_keys(engine: UniRefEngine) -> None:
    track = _started(engine)
    first, second = (track.objects[object_id].first for object_id in (2, 7))
    assert first is not None and second is not None
    assert first[0].keys.data_ptr() == second[0].keys.data_ptr()
    assert first[0].values.data_ptr() != second[0].values.data_ptr()


def test_resuming_changes_nothing(engine: UniRefEngine) -> None:
    track = _started(engine)
    engine.propagate([track], [_frame(1)])
    resumed = engine.restore(engine.snapshot(track))
    _same(track, resumed, engine)
    for step in (2, 3):
        a = engine.propagate([track], [_frame(step)])[0]
        b = engine.propagate([resumed], [_frame(step)])[0]
        assert np.array_equal(a.label_map, b.label_map)
    _same(track, resumed, engine)


def test_other_tracks_change_nothing(engine: UniRefEngine) -> None:
    alone, beside, guest = _started(engine), _started(engine), _started(engine)
    engine.forget(guest, 7)
    engine.propagate([alone], [_frame(1)])
    engine.propagate([guest, beside], [_frame(9), _frame(1)])
    _same(alone, beside, engine)


def test_other_objects_leave_ones_map_alone(weights: Path) -> None:
    alone = registry.create("uniref-t", weights=weights, device="cpu")
    assert isinstance(alone, UniRefEngine)
    together = registry.create("uniref-t", weights=weights, device="cpu", deterministic=False)
    assert isinstance(together, UniRefEngine)
    maps = []
    for engine in (alone, together):
        track = _started(engine)
        maps.append(engine.propagate([track], [_frame(1)], probability=True)[0].probability)
    assert maps[0] is not None and maps[1] is not None
    torch.testing.assert_close(maps[0], maps[1], atol=1e-4, rtol=0)


def test_forgetting_an_object(engine: UniRefEngine) -> None:
    track = _started(engine)
    engine.forget(track, 2)
    assert track.object_ids == (7,)
    with pytest.raises(KeyError):
        engine.forget(track, 2)


def test_text_and_exemplar_give_a_probability_map(engine: UniRefEngine) -> None:
    frame = _frame(5)
    by_text = engine.ground(frame, text="the purplish red zebra")
    assert by_text.unknown_words == ("purplish", "zebra")
    by_exemplar = engine.ground(frame, exemplar=_frame(0), exemplar_mask=_labels())
    for found in (by_text, by_exemplar):
        assert found.probability.shape == (SIZE.height, SIZE.width)
        assert found.probability.dtype == np.float32
        assert 0 <= found.probability.min() <= found.probability.max() <= 1
        assert 0 < found.score < 1
    assert not np.array_equal(by_text.probability, by_exemplar.probability)


def test_following_a_text(engine: UniRefEngine) -> None:
    track = engine.open(SIZE, MemoryPolicy())
    assert engine.refer(track, 3, "the red one") == ()
    for step in range(2):
        prediction = engine.propagate([track], [_frame(step)])[0]
        assert set(np.unique(prediction.label_map)) <= {0, 3}
    _same(track, engine.restore(engine.snapshot(track)), engine)
    with pytest.raises(KeyError):
        engine.refer(track, 3, "the blue one")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a text or an exemplar"),
        ({"text": "red", "exemplar": _frame(0), "exemplar_mask": _labels()}, "either a text or an exemplar"),
        ({"exemplar": _frame(0)}, "needs a mask"),
        ({"exemplar": _frame(0), "exemplar_mask": _labels()[1:]}, "same size"),
        ({"exemplar": _frame(0), "exemplar_mask": _labels() * 0}, "empty"),
        ({"text": "  "}, "no word"),
        ({"text": "zebra unicorn"}, "uniref"),
        ({"text": "red " * 40}, "40 words"),
    ],
)
def test_bad_references_are_refused(engine: UniRefEngine, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedReference, match=message):
        engine.ground(_frame(1), **arguments)  # type: ignore[arg-type]


def test_a_tiny_object_is_not_lost_in_resizing(engine: UniRefEngine) -> None:
    size = Size(200, 300)
    track = engine.open(size, MemoryPolicy())
    labels = np.zeros((200, 300), np.uint8)
    labels[101, 150] = 1
    engine.memorize(track, _frame(0, size), labels, object_ids=[1])
    empty = engine.open(size, MemoryPolicy())
    engine.memorize(empty, _frame(0, size), labels * 0, object_ids=[1])
    assert len(track.objects[1].masks()) == 1
    assert empty.objects[1].masks() == []
    assert engine.propagate([empty], [_frame(1, size)])[0].scores == {1: 0.0}


def test_misuse_is_named(engine: UniRefEngine) -> None:
    track = engine.open(SIZE, MemoryPolicy())
    with pytest.raises(NoReferenceFrame):
        engine.propagate([track], [_frame(1)])
    with pytest.raises(FrameSizeChanged):
        engine.memorize(track, _frame(0, Size(20, 20)), _labels(), object_ids=[2])
    with pytest.raises(BudgetTooSmall, match="need 387 tokens"):
        engine.open(SIZE, MemoryPolicy(budget_tokens=100))
    state = engine.snapshot(_started(engine))
    state = type(state)({**state.meta, "weights": "other"}, state.tensors)
    with pytest.raises(StateMismatch):
        engine.restore(state)


def test_weights_of_another_variant_are_refused(weights: Path) -> None:
    with pytest.raises(WeightsError, match="another variant"):
        registry.create("uniref", weights=weights, device="cpu")
    with pytest.raises(WeightsError, match="uniref"):
        registry.create("uniref", device="cpu")


def test_untrained_weights_serve_for_timings() -> None:
    engine = registry.create("uniref-t", weights="random", device="cpu")
    assert engine.spec.weights_sha256 == "random"
    assert engine.spec.net_short_side == 480


@pytest.mark.parametrize("with_masks", [True, False])
def test_text_video_uses_masks_if_the_config_says_so(with_masks: bool) -> None:
    config = replace(VARIANTS["uniref-t"], rvos_mask_reference=with_masks)
    torch.manual_seed(0)
    spec = registry.create("uniref-t", weights="random", device="cpu").spec
    engine = UniRefEngine(UniRef(config).eval(), spec, Rules(_scales(64)), Words(WORDS, 32))
    track = engine.open(SIZE, MemoryPolicy())
    engine.refer(track, 1, "red")
    engine.memorize(track, _frame(0), _labels() // 2, object_ids=[1])
    references = engine._network._references(track.objects[1])
    assert len(references) == (2 if with_masks else 1)


def test_half_precision_finds_the_same(weights: Path, engine: UniRefEngine) -> None:
    half = registry.create("uniref-t", weights=weights, device="cpu", dtype=torch.bfloat16)
    assert isinstance(half, UniRefEngine)
    maps = [e.ground(_frame(4), exemplar=_frame(0), exemplar_mask=_labels()).probability for e in (engine, half)]
    assert np.abs(maps[0] - maps[1]).max() < 0.1
    tracks = [_started(e) for e in (engine, half)]
    for e, t in zip((engine, half), tracks, strict=True):
        found = e.propagate([t], [_frame(1)], probability=True)[0].probability
        assert found is not None
        maps.append(found.numpy())
    assert np.abs(maps[2] - maps[3]).max() < 0.1
    _same(tracks[1], half.restore(half.snapshot(tracks[1])), half)
