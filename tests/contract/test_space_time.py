"""What STM and AFB-URR promise as engines, on their light variants with made-up weights."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache

import numpy as np
import pytest
import torch

from engines.afb_urr.config import VARIANTS as AFB_VARIANTS
from engines.afb_urr.model import AfbUrrNetwork
from engines.catalog import CATALOG, DEFAULT_BUDGET_FRAMES, TOKEN_OVERHEAD_BYTES
from engines.errors import BudgetTooSmall, FrameSizeChanged, NoReferenceFrame, StateMismatch, WeightsError
from engines.protocols import Engine, Track
from engines.registry import create
from engines.space_time.engine import SpaceTimeEngine
from engines.space_time.network import MemoryNetwork
from engines.space_time.track import SpaceTimeTrack
from engines.stm.config import VARIANTS as STM_VARIANTS
from engines.stm.model import StmNetwork
from engines.types import Frame, LabelMap, MemoryPolicy, Prediction, Size, TrackState
from service.admission import device_bytes
from service.schemas import MemoryOptions
from tests.parity.weights import fill

SIZE = Size(60, 84)
CELLS = 4 * 6
POLICIES = [
    MemoryPolicy("adaptive", budget_tokens=30 * CELLS, memorize_every=2),
    MemoryPolicy("window", budget_tokens=30 * CELLS, memorize_every=2),
    MemoryPolicy("every_k", memorize_every=2),
    MemoryPolicy("adaptive", budget_tokens=400 * CELLS, memorize_every=1, exact=True),
]
both = pytest.mark.parametrize("name", ["stm-t", "afb-urr-t"])
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=["adaptive", "window", "every_k", "released"])


@lru_cache
def engine(name: str, *, deterministic: bool = True, contrast: float = 1.0) -> SpaceTimeEngine:
    """Weights that give clear masks, so that a difference in memory shows in them; less clear with less contrast."""
    stm = name.startswith("stm")
    net: MemoryNetwork = StmNetwork(STM_VARIANTS[name]) if stm else AfbUrrNetwork(AFB_VARIANTS[name])
    state = net.state_dict()
    constants = {key: value for key, value in state.items() if key.endswith((".mean", ".std"))}
    drawn = {key: value.shape for key, value in state.items() if key not in constants}
    weights = fill(drawn, {"Decoder.pred2": 30.0 * contrast, "decoder.pred2": 100.0 * contrast}) | constants
    made = create(name, weights=weights, device="cpu", deterministic=deterministic)
    assert isinstance(made, SpaceTimeEngine)
    return made


def frame(seed: int) -> Frame:
    return np.random.default_rng(seed).integers(0, 255, (SIZE.height, SIZE.width, 3), dtype=np.uint8)


def boxes(*ids: int) -> LabelMap:
    """One box per object."""
    label_map = np.zeros((SIZE.height, SIZE.width), np.uint8)
    for place, object_id in enumerate(ids):
        row, column = divmod(place, 4)
        label_map[4 + 18 * row : 18 + 18 * row, 4 + 20 * column : 20 + 20 * column] = object_id
    return label_map


def start(name: str, policy: MemoryPolicy, ids: tuple[int, ...]) -> SpaceTimeTrack:
    made = engine(name)
    track = made.open(SIZE, policy)
    made.memorize(track, frame(sum(ids)), boxes(*ids), object_ids=ids)
    return track


def run(name: str, track: SpaceTimeTrack, seeds: range) -> list[Prediction]:
    return [engine(name).propagate([track], [frame(seed)], probability=True)[0] for seed in seeds]


def assert_equal(a: Prediction, b: Prediction) -> None:
    np.testing.assert_array_equal(a.label_map, b.label_map)
    assert a.scores == b.scores
    assert a.uncertainty == b.uncertainty
    assert a.probability is not None
    assert b.probability is not None
    assert torch.equal(a.probability, b.probability)


@both
def test_is_an_engine_with_a_track(name: str) -> None:
    assert isinstance(engine(name), Engine)
    assert isinstance(start(name, POLICIES[0], (1,)), Track)


@both
@every_policy
def test_predictions_have_the_promised_shape(name: str, policy: MemoryPolicy) -> None:
    track = start(name, policy, (3, 9, 254))
    assert track.steps == 0
    for seen in run(name, track, range(4)):
        assert seen.label_map.shape == (SIZE.height, SIZE.width)
        assert seen.label_map.dtype == np.uint8
        assert set(np.unique(seen.label_map)) <= {0, 3, 9, 254}
        assert list(seen.scores) == list(seen.uncertainty) == [3, 9, 254]
        assert seen.probability is not None
        torch.testing.assert_close(seen.probability.sum(0), torch.ones(SIZE.height, SIZE.width))
        assert all((seen.scores[i] > 0) == bool((seen.label_map == i).any()) for i in (3, 9, 254))
    assert track.steps == 4


@both
@every_policy
def test_a_restored_track_goes_on_bit_for_bit(name: str, policy: MemoryPolicy) -> None:
    track = start(name, policy, (1, 2))
    run(name, track, range(3))
    state = engine(name).snapshot(track)
    copy = TrackState(dict(state.meta), {key: value.clone() for key, value in state.tensors.items()})
    assert all(isinstance(value, int | str) for value in state.meta.values())
    want = run(name, track, range(3, 7))
    other = engine(name).restore(copy)
    for a, b in zip(want, run(name, other, range(3, 7)), strict=True):
        assert_equal(a, b)
    left, right = engine(name).snapshot(track), engine(name).snapshot(other)
    assert left.meta == right.meta
    assert all(torch.equal(left.tensors[key], right.tensors[key]) for key in left.tensors.keys() | right.tensors.keys())


@both
def test_tracks_together_equal_each_alone_bit_for_bit(name: str) -> None:
    """1, 3 and 11 objects, other bank fills, and a track that has just begun."""
    crowd = tuple(range(1, 12))
    plans = [((5,), 4), ((1, 2, 3), 1), (crowd, 2), ((7, 8), 0)]
    together = [start(name, POLICIES[0], ids) for ids, _ in plans]
    alone = [start(name, POLICIES[0], ids) for ids, _ in plans]
    for (_, fill_steps), a, b in zip(plans, together, alone, strict=True):
        run(name, a, range(fill_steps))
        run(name, b, range(fill_steps))
    frames = [frame(100 + i) for i in range(len(plans))]
    seen = engine(name).propagate(together, frames, probability=True)
    for track, shown, got in zip(alone, frames, seen, strict=True):
        assert_equal(got, engine(name).propagate([track], [shown], probability=True)[0])


@both
def test_a_batched_step_agrees_with_single_ones(name: str) -> None:
    """Off `deterministic`: one step from equal memories, within 1e-4."""
    single, batched = engine(name, contrast=0.1), engine(name, contrast=0.1, deterministic=False)
    tracks = {}
    for made in (single, batched):
        tracks[made] = [made.open(SIZE, POLICIES[0]) for _ in range(3)]
        for track, ids in zip(tracks[made], [(5,), (1, 2, 3), tuple(range(1, 12))], strict=True):
            made.memorize(track, frame(len(ids)), boxes(*ids), object_ids=ids)
    frames = [frame(200 + i) for i in range(3)]
    want = single.propagate(tracks[single], frames, probability=True)
    for a, b in zip(want, batched.propagate(tracks[batched], frames, probability=True), strict=True):
        assert a.probability is not None
        assert b.probability is not None
        torch.testing.assert_close(b.probability, a.probability, atol=1e-4, rtol=0)
        assert float(a.probability.std(dim=(1, 2)).max()) > 1e-3


@both
@pytest.mark.parametrize("kind", ["adaptive", "window"])
def test_memory_stays_within_its_budget_and_the_reference_in_it(name: str, kind: str) -> None:
    budget = 8 * CELLS
    policy = MemoryPolicy("adaptive" if kind == "adaptive" else "window", budget_tokens=budget, memorize_every=1)
    track = start(name, policy, (1, 2))
    sizes = []
    for seed in range(14):
        run(name, track, range(seed, seed + 1))
        assert track.bank_tokens <= budget
        assert all(int(track.banks[c].is_reference().sum()) == CELLS for c in (1, 2))
        sizes.append(track.bank_bytes)
    assert max(sizes) <= engine(name).track_bytes(SIZE, 2, policy)


@both
def test_without_a_budget_each_channel_has_the_default(name: str) -> None:
    made = engine(name)
    track = start(name, MemoryPolicy(memorize_every=1), (1, 2, 3))
    for _ in range(2):
        assert {track.banks[c].budget_tokens for c in track.banks} == {DEFAULT_BUDGET_FRAMES * CELLS}
        track = made.restore(made.snapshot(track))
    made.forget(track, 2)
    assert track.banks[1].budget_tokens == DEFAULT_BUDGET_FRAMES * CELLS
    least = made.track_bytes(SIZE, 3, MemoryPolicy())
    admitted = device_bytes(CATALOG[name], (SIZE.height, SIZE.width), 3, MemoryOptions())
    assert track.bank_bytes < least
    assert least < 1.5 * admitted


@both
def test_a_budget_below_the_reference_names_the_smallest(name: str) -> None:
    background = int(name.startswith("afb"))
    with pytest.raises(BudgetTooSmall, match=f"smallest that works is {2 * CELLS * (1 + background)} tokens"):
        engine(name).open(SIZE, MemoryPolicy(budget_tokens=CELLS))
    least = 2 * CELLS * (2 + background)
    with pytest.raises(BudgetTooSmall, match=f"smallest that works is {least} tokens"):
        start(name, MemoryPolicy(budget_tokens=least - 1), (1, 2))
    run(name, start(name, MemoryPolicy(budget_tokens=least), (1, 2)), range(2))
    assert CATALOG[name].smallest_budget_tokens(SIZE.height, SIZE.width, 2) == least
    mib = least * (CATALOG[name].token_bytes + TOKEN_OVERHEAD_BYTES) / 2**20
    assert CATALOG[name].budget_tokens(mib) == least
    start(name, MemoryPolicy(budget_mib=mib), (1, 2))


@both
@every_policy
def test_an_object_that_joins_late_is_followed_beside_the_others(name: str, policy: MemoryPolicy) -> None:
    track = start(name, policy, (4,))
    run(name, track, range(3))
    newcomer = boxes(4, 2)
    newcomer[newcomer == 4] = 0
    before = track.composed
    assert before is not None
    engine(name).memorize(track, frame(2), newcomer, object_ids=[2])
    assert track.object_ids == (2, 4)
    assert track.composed is not None
    np.testing.assert_array_equal(track.composed == 2, newcomer == 2)
    np.testing.assert_array_equal(track.composed == 4, (before == 4) & (newcomer != 2))
    seen = run(name, track, range(3, 6))[-1]
    assert list(seen.scores) == [2, 4]
    assert track.steps == 6


def test_background_memory_of_a_newcomers_place_leaves() -> None:
    """A frame seen twice: what was background where the newcomer is must go, references included."""
    made = engine("afb-urr-t")
    track = start("afb-urr-t", POLICIES[0], (1,))
    label_map = boxes(1, 2)
    cells = torch.from_numpy(label_map == 2).float()[None, None]
    inside = torch.nn.functional.avg_pool2d(track.geometry.pad(cells), 16) > 0.5
    made.memorize(track, frame(1), label_map, object_ids=[2])
    left = int((track.banks[0].is_reference()).sum())
    assert left == 2 * CELLS - int(inside.sum())


@both
def test_a_forgotten_object_leaves_and_the_rest_goes_on(name: str) -> None:
    track = start(name, POLICIES[0], (1, 2))
    run(name, track, range(2))
    engine(name).forget(track, 1)
    seen = run(name, track, range(2, 4))[-1]
    assert list(seen.scores) == [2]
    assert 1 not in track.banks
    with pytest.raises(KeyError):
        engine(name).forget(track, 1)
    engine(name).forget(track, 2)
    with pytest.raises(NoReferenceFrame):
        run(name, track, range(4, 5))


@both
def test_wrong_use_is_told(name: str) -> None:
    made = engine(name)
    track = made.open(SIZE, POLICIES[0])
    with pytest.raises(NoReferenceFrame, match="memorize a reference"):
        made.propagate([track], [frame(0)])
    small = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(FrameSizeChanged, match="60"):
        made.propagate([track], [small])
    with pytest.raises(FrameSizeChanged):
        made.memorize(track, frame(0), small[..., 0], object_ids=[1])
    with pytest.raises(ValueError, match="254"):
        made.memorize(track, frame(0), boxes(1), object_ids=[0])
    state = made.snapshot(start(name, POLICIES[0], (1,)))
    with pytest.raises(StateMismatch, match="weights_sha256"):
        made.restore(TrackState({**state.meta, "weights_sha256": "f" * 64}, state.tensors))


def test_weights_of_the_other_variant_are_named() -> None:
    weights = StmNetwork(STM_VARIANTS["stm-t"]).state_dict()
    with pytest.raises(WeightsError, match="looks like stm-t"):
        create("stm", weights=weights, device="cpu")


@both
def test_a_large_frame_is_shrunk_to_what_the_weights_want(name: str) -> None:
    made = engine(name)
    size = Size(400, 500)
    track = made.open(size, MemoryPolicy(budget_tokens=5000))
    assert track.network_size == Size(320, 400)
    picture = np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8)
    label_map = np.zeros((400, 500), np.uint8)
    label_map[50:200, 60:300] = 1
    made.memorize(track, picture, label_map, object_ids=[1])
    seen = made.propagate([track], [picture], probability=True)[0]
    assert seen.label_map.shape == (400, 500)
    assert seen.probability is not None
    torch.testing.assert_close(seen.probability.sum(0), torch.ones(400, 500))


def test_a_client_can_ask_for_every_memory_that_engines_know() -> None:
    offered = {name: field.default for name, field in MemoryOptions.model_fields.items()}
    assert offered == asdict(MemoryPolicy())
