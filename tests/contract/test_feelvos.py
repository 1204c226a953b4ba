"""What FEELVOS promises as an engine. Where masks must make sense, a network by hand stands in for trained weights."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.catalog import CATALOG
from engines.errors import BudgetTooSmall, FrameSizeChanged, NoReferenceFrame, StateMismatch, WeightsError
from engines.feelvos.config import FEELVOS, FEELVOS_T, FeelvosConfig
from engines.feelvos.engine import FeelvosEngine
from engines.feelvos.model import FeelvosNet, FrameFeatures, feature_size
from engines.feelvos.references import aligned_index, shrink_labels
from engines.feelvos.track import FeelvosTrack
from engines.protocols import Engine, EngineSpec, HasWarnings, Track
from engines.registry import create
from engines.types import Frame, LabelMap, MemoryPolicy, Prediction, Size, TrackState
from tests.parity.weights import fill

SIZE = Size(60, 84)
CELLS = 15 * 21
POLICIES = [
    MemoryPolicy("adaptive", budget_tokens=4 * CELLS, memorize_every=2),
    MemoryPolicy("window", budget_tokens=4 * CELLS, memorize_every=2),
    MemoryPolicy("every_k", memorize_every=2),
    MemoryPolicy("adaptive", budget_tokens=20 * CELLS, memorize_every=2, exact=True),
]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=["adaptive", "window", "every_k", "exact"])


class ColorHead(nn.Module):
    """Near in colour and where the object was: the object's."""

    def forward(self, shared: Tensor, own: Tensor, owner: Tensor) -> Tensor:
        return 2 * own[:, 1] - 6 * own[:, 0] - 2 * own[:, 2]


class ColorNet(nn.Module):
    """Embeds a pixel by its colour, so that matching alone follows coloured objects."""

    def __init__(self, config: FeelvosConfig) -> None:
        super().__init__()
        self.config = config
        self.head = ColorHead()

    def forward(self, image: Tensor) -> FrameFeatures:
        size = feature_size(image.shape[2], image.shape[3])
        colors = F.interpolate(image, size, mode="bilinear", align_corners=True)
        return FrameFeatures(shared=colors, embedding=3 * (colors + 1))


def color_engine(config: FeelvosConfig = FEELVOS, *, deterministic: bool = True) -> FeelvosEngine:
    config = replace(config, embedding_width=3)
    info = CATALOG["feelvos"]
    spec = EngineSpec(info, 480, 9999, "by hand", torch.float32, torch.device("cpu"), deterministic)
    return FeelvosEngine(ColorNet(config), spec)  # type: ignore[arg-type]


@lru_cache
def light_engine(*, deterministic: bool = True) -> FeelvosEngine:
    """feelvos-t with made-up weights, through the door."""
    shapes = {key: tuple(value.shape) for key, value in FeelvosNet(FEELVOS_T).state_dict().items()}
    weights = fill(shapes, {"embedding.": 3.0, "head.": 1.6, "head.logits": 30.0})
    made = create("feelvos-t", weights=weights, device="cpu", deterministic=deterministic)
    assert isinstance(made, FeelvosEngine)
    return made


COLORS = {1: (230, 40, 40), 2: (40, 60, 230), 3: (240, 220, 40)}


def scene(**places: tuple[int, int, int]) -> tuple[Frame, LabelMap]:
    """Coloured squares on mottled green; each place is (top, left, side) of the object called o<id>."""
    noise = np.random.default_rng(0).integers(0, 30, (SIZE.height, SIZE.width, 1), dtype=np.uint8)
    frame = np.array([60, 150, 60], np.uint8) + noise
    label_map = np.zeros((SIZE.height, SIZE.width), np.uint8)
    for name, (top, left, side) in places.items():
        object_id = int(name.removeprefix("o"))
        frame[top : top + side, left : left + side] = COLORS[object_id]
        label_map[top : top + side, left : left + side] = object_id
    return frame, label_map


def overlap(found: LabelMap, wanted: LabelMap, object_id: int) -> float:
    a, b = found == object_id, wanted == object_id
    return float((a & b).sum() / max(1, (a | b).sum()))


def noise_frame(seed: int) -> Frame:
    return np.random.default_rng(seed).integers(0, 255, (SIZE.height, SIZE.width, 3), dtype=np.uint8)


def boxes(*ids: int) -> LabelMap:
    label_map = np.zeros((SIZE.height, SIZE.width), np.uint8)
    for place, object_id in enumerate(ids):
        row, column = divmod(place, 4)
        label_map[4 + 18 * row : 18 + 18 * row, 4 + 20 * column : 20 + 20 * column] = object_id
    return label_map


def start(policy: MemoryPolicy, ids: tuple[int, ...]) -> FeelvosTrack:
    track = light_engine().open(SIZE, policy)
    light_engine().memorize(track, noise_frame(sum(ids)), boxes(*ids), object_ids=ids)
    return track


def run(track: FeelvosTrack, seeds: range, engine: FeelvosEngine | None = None) -> list[Prediction]:
    used = engine or light_engine()
    return [used.propagate([track], [noise_frame(seed)], probability=True)[0] for seed in seeds]


def assert_equal(a: Prediction, b: Prediction) -> None:
    np.testing.assert_array_equal(a.label_map, b.label_map)
    assert a.scores == b.scores
    assert a.probability is not None and b.probability is not None
    assert torch.equal(a.probability, b.probability)


# --- the promises of every engine ------------------------------------------------------------------------------------


def test_is_an_engine_with_a_track() -> None:
    track = start(POLICIES[0], (1,))
    assert isinstance(light_engine(), Engine)
    assert isinstance(track, Track)
    assert isinstance(track, HasWarnings)


@every_policy
def test_predictions_have_the_promised_shape(policy: MemoryPolicy) -> None:
    track = start(policy, (3, 9, 254))
    for seen in run(track, range(4)):
        assert seen.label_map.shape == (SIZE.height, SIZE.width)
        assert seen.label_map.dtype == np.uint8
        assert set(np.unique(seen.label_map)) <= {0, 3, 9, 254}
        assert list(seen.scores) == list(seen.uncertainty) == [3, 9, 254]
        assert seen.probability is not None
        torch.testing.assert_close(seen.probability.sum(0), torch.ones(SIZE.height, SIZE.width))
    assert track.steps == 4


@every_policy
def test_a_restored_track_goes_on_bit_for_bit(policy: MemoryPolicy) -> None:
    track = start(policy, (1, 2))
    run(track, range(3))
    state = light_engine().snapshot(track)
    copy = TrackState(dict(state.meta), {key: value.clone() for key, value in state.tensors.items()})
    assert all(isinstance(value, int | str) for value in state.meta.values())
    wanted = run(track, range(3, 7))
    other = light_engine().restore(copy)
    for a, b in zip(wanted, run(other, range(3, 7)), strict=True):
        assert_equal(a, b)
    left, right = light_engine().snapshot(track), light_engine().snapshot(other)
    assert left.meta == right.meta
    assert left.tensors.keys() == right.tensors.keys()
    assert all(torch.equal(left.tensors[key], right.tensors[key]) for key in left.tensors)


def test_soft_previous_masks_survive_a_snapshot() -> None:
    engine = color_engine(replace(FEELVOS, previous_mask="probability"))
    frame, label_map = scene(o1=(10, 10, 20))
    track = engine.open(SIZE, POLICIES[2])
    engine.memorize(track, frame, label_map, object_ids=(1,))
    run(track, range(2), engine)
    other = engine.restore(engine.snapshot(track))
    assert track.previous is not None and track.previous.probability is not None
    assert_equal(run(track, range(5, 6), engine)[0], run(other, range(5, 6), engine)[0])


def test_tracks_together_equal_each_alone_bit_for_bit() -> None:
    """1, 3 and 11 objects, other bank fills, and a track that has just begun."""
    plans = [((5,), 3), ((1, 2, 3), 1), (tuple(range(1, 12)), 2), ((7, 8), 0)]
    together = [start(POLICIES[0], ids) for ids, _ in plans]
    alone = [start(POLICIES[0], ids) for ids, _ in plans]
    for (_, steps), a, b in zip(plans, together, alone, strict=True):
        run(a, range(steps))
        run(b, range(steps))
    frames = [noise_frame(100 + i) for i in range(len(plans))]
    seen = light_engine().propagate(together, frames, probability=True)
    for track, frame, got in zip(alone, frames, seen, strict=True):
        assert_equal(got, light_engine().propagate([track], [frame], probability=True)[0])


def test_a_batched_step_agrees_with_single_ones() -> None:
    """Off `deterministic`: one step from equal memories, within 1e-4."""
    single, batched = light_engine(), light_engine(deterministic=False)
    tracks = []
    for ids in [(5,), (1, 2, 3), tuple(range(1, 12))]:
        first = start(POLICIES[0], ids)
        tracks.append((first, batched.restore(single.snapshot(first))))
    frames = [noise_frame(200 + i) for i in range(3)]
    wanted = single.propagate([a for a, _ in tracks], frames, probability=True)
    found = batched.propagate([b for _, b in tracks], frames, probability=True)
    for a, b in zip(wanted, found, strict=True):
        assert a.probability is not None and b.probability is not None
        torch.testing.assert_close(b.probability, a.probability, atol=1e-4, rtol=0)
        assert float(a.probability.std(dim=(1, 2)).max()) > 1e-3


@pytest.mark.parametrize("kind", ["adaptive", "window"])
def test_memory_stays_within_its_budget_and_the_reference_in_it(kind: str) -> None:
    engine = color_engine()
    policy = MemoryPolicy(
        "adaptive" if kind == "adaptive" else "window", budget_tokens=3 * CELLS, memorize_every=1, merge_threshold=1e-6
    )
    frame, label_map = scene(o1=(10, 10, 20), o2=(30, 50, 16))
    track = engine.open(SIZE, policy)
    engine.memorize(track, frame, label_map, object_ids=(1, 2))
    sizes = []
    for step in range(12):
        shown = np.clip(frame.astype(int) + 2 * step, 0, 255).astype(np.uint8)
        engine.propagate([track], [shown])
        assert track.bank_tokens <= 3 * CELLS
        assert int(track.bank.is_reference().sum()) == CELLS
        sizes.append(track.bank_bytes)
    assert track.bank.counts["evicted"] > 0
    assert max(sizes) == sizes[-1] == sizes[5]
    assert max(sizes) <= engine.track_bytes(SIZE, 2, policy)


def test_what_was_the_nearest_neighbour_counts_as_used() -> None:
    engine = color_engine()
    policy = MemoryPolicy("adaptive", budget_tokens=4 * CELLS, memorize_every=1, merge_threshold=1e-6)
    frame, label_map = scene(o1=(10, 10, 20))
    track = engine.open(SIZE, policy)
    engine.memorize(track, frame, label_map, object_ids=(1,))
    darker = (frame * 0.9).astype(np.uint8)
    for _ in range(3):
        engine.propagate([track], [darker])
    usage = engine.snapshot(track).tensors["bank/usage"]
    newer = ~track.bank.is_reference()
    # Two of the three steps read a bank that held darker frames; every pixel has a nearest background feature and a
    # nearest feature of the object.
    assert float(usage.sum()) == 2 * 2 * CELLS
    assert float(usage[newer].sum()) > 0.9 * float(usage.sum())


def test_a_budget_below_the_reference_names_the_smallest() -> None:
    with pytest.raises(BudgetTooSmall, match=f"smallest that works is {2 * CELLS} tokens"):
        color_engine().open(SIZE, MemoryPolicy(budget_tokens=2 * CELLS - 1))
    color_engine().open(SIZE, MemoryPolicy(budget_tokens=2 * CELLS))


def test_wrong_use_is_told() -> None:
    engine = light_engine()
    track = engine.open(SIZE, POLICIES[0])
    with pytest.raises(NoReferenceFrame, match="memorize a reference"):
        engine.propagate([track], [noise_frame(0)])
    small = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(FrameSizeChanged, match="10x10.*60x84"):
        engine.propagate([track], [small])
    with pytest.raises(FrameSizeChanged, match="label map"):
        engine.memorize(track, noise_frame(0), small[..., 0], object_ids=[1])
    with pytest.raises(ValueError, match="1 to 254"):
        engine.memorize(track, noise_frame(0), boxes(1), object_ids=[0])
    other = engine.open(Size(64, 64), POLICIES[0])
    square = np.zeros((64, 64, 3), np.uint8)
    engine.memorize(other, square, square[..., 0] + 1, object_ids=[1])
    with pytest.raises(FrameSizeChanged, match="one network size"):
        engine.propagate([start(POLICIES[0], (1,)), other], [noise_frame(0), square])
    state = engine.snapshot(start(POLICIES[0], (1,)))
    with pytest.raises(StateMismatch, match="start from the references"):
        engine.restore(TrackState({**state.meta, "engine": "other"}, state.tensors))
    with pytest.raises(WeightsError, match="no starter weights"):
        create("feelvos", device="cpu")


def test_a_forgotten_object_leaves_and_the_rest_goes_on() -> None:
    track = start(POLICIES[0], (1, 2))
    run(track, range(2))
    light_engine().forget(track, 1)
    assert not bool((track.bank.identity() == 1).any())
    assert list(run(track, range(2, 4))[-1].scores) == [2]
    with pytest.raises(KeyError):
        light_engine().forget(track, 1)
    light_engine().forget(track, 2)
    with pytest.raises(NoReferenceFrame):
        run(track, range(4, 5))


def test_a_large_frame_is_shrunk_to_what_the_weights_want() -> None:
    engine = color_engine()
    assert engine.open(Size(1080, 1920), MemoryPolicy()).network_size == Size(480, 853)
    assert engine.open(Size(60, 84), MemoryPolicy()).network_size == Size(60, 84)


# --- following objects -----------------------------------------------------------------------------------------------


def test_objects_that_move_are_followed() -> None:
    engine = color_engine()
    frame, label_map = scene(o1=(10, 6, 20), o2=(34, 50, 18))
    track = engine.open(SIZE, MemoryPolicy())
    engine.memorize(track, frame, label_map, object_ids=(1, 2))
    for step in range(1, 6):
        frame, label_map = scene(o1=(10 + 2 * step, 6 + 5 * step, 20), o2=(34 - 3 * step, 50, 18))
        seen = engine.propagate([track], [frame])[0]
    assert overlap(seen.label_map, label_map, 1) > 0.75
    assert overlap(seen.label_map, label_map, 2) > 0.75


def test_an_object_that_leaves_is_lost_and_found_again() -> None:
    engine = color_engine()
    frame, label_map = scene(o1=(10, 6, 20), o2=(34, 50, 18))
    track = engine.open(SIZE, MemoryPolicy())
    engine.memorize(track, frame, label_map, object_ids=(1, 2))
    gone, _ = scene(o2=(34, 50, 18))
    for _ in range(4):
        seen = engine.propagate([track], [gone])[0]
    assert seen.scores[1] == 0.0
    assert not (seen.label_map == 1).any()
    back, label_map = scene(o1=(20, 60, 20), o2=(34, 30, 18))
    for _ in range(3):
        seen = engine.propagate([track], [back])[0]
    assert overlap(seen.label_map, label_map, 1) > 0.75


def test_frames_with_a_lost_object_are_not_memorised_as_background() -> None:
    engine = color_engine()
    frame, label_map = scene(o1=(10, 6, 20), o2=(34, 50, 18))
    track = engine.open(SIZE, MemoryPolicy("window", memorize_every=1))
    engine.memorize(track, frame, label_map, object_ids=(1, 2))
    gone, _ = scene(o2=(34, 50, 18))
    for _ in range(4):
        engine.propagate([track], [gone])
    fresh = track.bank.identity()[~track.bank.is_reference()]
    assert set(fresh.tolist()) == {2}


@pytest.mark.parametrize("same_frame", [True, False])
def test_a_late_object_is_not_held_back_by_background_that_matches_it(same_frame: bool) -> None:
    engine = color_engine()
    frame, label_map = scene(o1=(10, 6, 20), o3=(34, 50, 18))
    first = np.where(label_map == 3, 0, label_map).astype(np.uint8)
    track = engine.open(SIZE, MemoryPolicy())
    engine.memorize(track, frame, first, object_ids=(1,))
    held = track.bank_tokens
    seen = engine.propagate([track], [frame])[0]
    assert not (seen.label_map == 3).any()
    moved, label_map = scene(o1=(10, 6, 20), o3=(30, 54, 18))
    if same_frame:
        engine.propagate([track], [moved])
    engine.memorize(track, moved, np.where(label_map == 3, 3, 0).astype(np.uint8), object_ids=[3])
    assert track.object_ids == (1, 3)
    background = track.bank.view("embedding")[track.bank.identity() == 0]
    yellow = 3 * 2 * torch.tensor(COLORS[3]) / 255
    assert float((background - yellow).square().sum(1).min()) > 1.0
    assert int((track.bank.identity() == 1).sum()) > 0 and held > 0
    for step in range(1, 4):
        frame, label_map = scene(o1=(10, 6, 20), o3=(30 - 4 * step, 54, 18))
        seen = engine.propagate([track], [frame])[0]
    assert overlap(seen.label_map, label_map, 3) > 0.75
    assert overlap(seen.label_map, label_map, 1) > 0.75


def test_a_late_reference_keeps_the_other_objects_places_in_its_frame() -> None:
    engine = color_engine()
    frame, label_map = scene(o1=(10, 6, 20), o3=(34, 50, 18))
    track = engine.open(SIZE, MemoryPolicy())
    engine.memorize(track, frame, np.where(label_map == 1, 1, 0).astype(np.uint8), object_ids=[1])
    engine.propagate([track], [frame])
    engine.memorize(track, frame, np.where(label_map == 3, 3, 0).astype(np.uint8), object_ids=[3])
    assert track.previous is not None
    assert set(track.previous.labels.unique().tolist()) == {0, 1, 3}


# --- tiny objects ----------------------------------------------------------------------------------------------------


def test_an_object_smaller_than_a_cell_keeps_one_feature_and_a_warning() -> None:
    engine = color_engine()
    frame, label_map = scene(o1=(10, 6, 20))
    frame[43:45, 63:65] = COLORS[2]
    label_map[43:45, 63:65] = 2
    track = engine.open(SIZE, MemoryPolicy())
    engine.memorize(track, frame, label_map, object_ids=(1, 2))
    assert int((track.bank.identity() == 2).sum()) == 1
    assert len(track.warnings) == 1
    assert "object 2 is smaller than one feature cell" in track.warnings[0]
    assert engine.restore(engine.snapshot(track)).warnings == track.warnings


def test_an_object_without_pixels_is_a_warning() -> None:
    engine = color_engine()
    frame, label_map = scene(o1=(10, 6, 20))
    track = engine.open(SIZE, MemoryPolicy())
    engine.memorize(track, frame, label_map, object_ids=(1, 2))
    assert "object 2 has no pixels" in track.warnings[0]
    assert engine.propagate([track], [frame])[0].scores[2] == 0.0


def test_two_tiny_objects_in_one_cell_get_a_cell_each() -> None:
    label_map = np.zeros((60, 84), np.uint8)
    label_map[43, 63] = 1
    label_map[44, 64] = 2
    cells = shrink_labels(label_map, (15, 21), (1, 2))
    assert cells.tiny == (1, 2)
    assert (cells.labels == 1).sum() == (cells.labels == 2).sum() == 1


def test_labels_shrink_to_the_nearest_pixel_corners_on_corners() -> None:
    assert aligned_index(9, 3).tolist() == [0, 4, 8]
    assert aligned_index(10, 3).tolist() == [0, 5, 9]  # 4.5 goes up
    assert aligned_index(7, 1).tolist() == [0]


# --- samples and switches --------------------------------------------------------------------------------------------


def test_samples_are_random_bounded_and_the_same_again() -> None:
    frame, label_map = scene(o1=(10, 6, 20))
    kept = []
    for _ in range(2):
        engine = color_engine(replace(FEELVOS, reference_sample=20))
        track = engine.open(SIZE, MemoryPolicy())
        engine.memorize(track, frame, label_map, object_ids=(1,))
        identity = track.bank.identity()
        assert int((identity == 0).sum()) == int((identity == 1).sum()) == 20
        kept.append(track.bank.view("embedding").clone())
    assert torch.equal(*kept)
    engine.memorize(track, frame, label_map, object_ids=(1,))
    again = track.bank.view("embedding")[40:]
    assert again.shape == kept[0].shape
    assert not torch.equal(again, kept[0])


@pytest.mark.parametrize("off", ["use_global", "use_previous", "use_local"])
def test_what_the_paper_ablates_can_be_switched_off(off: str) -> None:
    config = replace(FEELVOS_T, **{off: False})  # type: ignore[arg-type]
    network = FeelvosNet(config).eval()
    spec = EngineSpec(CATALOG["feelvos-t"], 480, 9999, off, torch.float32, torch.device("cpu"), deterministic=True)
    engine = FeelvosEngine(network, spec)
    track = engine.open(SIZE, MemoryPolicy())
    engine.memorize(track, noise_frame(0), boxes(1, 2), object_ids=(1, 2))
    seen = run(track, range(1), engine)[0]
    assert seen.probability is not None
    assert seen.probability.shape == (3, SIZE.height, SIZE.width)
    with pytest.raises(RuntimeError):
        network.head(torch.zeros(1, 128, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.long))
