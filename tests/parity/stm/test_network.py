"""STM against the reference run: the parts of one step, then the published loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.banks.readout import Memory, read_bank
from engines.catalog import CATALOG
from engines.checkpoint import fit, load_checkpoint
from engines.protocols import EngineSpec
from engines.space_time.engine import SpaceTimeEngine
from engines.space_time.padding import Geometry
from engines.stm.config import VARIANTS
from engines.stm.engine import SETTINGS
from engines.stm.model import StmNetwork
from engines.types import MemoryPolicy, Size
from tests.parity.weights import fill, load_spec

Case = dict[str, NDArray[np.float32]]
CPU = torch.device("cpu")
PUBLISHED = replace(VARIANTS["stm"], slots=11)


@pytest.fixture(scope="module")
def folder(fixture_dir: Callable[[str], Path]) -> Path:
    return fixture_dir("stm")


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    with np.load(folder / "case_a.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def network(folder: Path) -> StmNetwork:
    """Loaded as published: behind a data-parallel prefix, with counters of batches."""
    net = StmNetwork(PUBLISHED)
    constants = {name: value for name, value in net.state_dict().items() if name.endswith((".mean", ".std"))}
    published = {f"module.{name}": tensor for name, tensor in (fill(*load_spec(folder)) | constants).items()}
    fit(net, load_checkpoint(published, "stm"), "stm")
    return net.eval().requires_grad_(False)


def close(got: Tensor, want: NDArray[np.float32], atol: float) -> None:
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-3, atol=atol)


def test_the_published_names_are_all_there(folder: Path, network: StmNetwork) -> None:
    published = {name for name in load_spec(folder)[0] if not name.endswith("num_batches_tracked")}
    extra = {f"Encoder_{e}.{buffer}" for e in "MQ" for buffer in ("mean", "std")}
    assert set(network.state_dict()) == published | extra


def test_the_parts_of_the_first_step(case: Case, network: StmNetwork) -> None:
    geometry = Geometry.of(Size(71, 101), 480)
    assert geometry.padded == Size(80, 112)
    one_hot = geometry.one_hot(case["label0"].astype(np.uint8), [1, 2], CPU)
    own, other = network.memory_masks(geometry.pad(one_hot))
    first, second = (geometry.frame(case["frames"][i].astype(np.uint8), CPU) for i in (0, 1))
    key, value = network.encode_memory(first.expand(2, -1, -1, -1), own, other)
    close(key, case["t1_mem_key"], 1e-4)
    close(value, case["t1_mem_val"], 5e-4)
    query = network.encode_query(second)
    close(query.key, case["t1_q_key"], 1e-4)
    memories = [Memory(k.flatten(1).T, v.flatten(1).T) for k, v in zip(key, value, strict=True)]
    reads = torch.stack([read_bank(query.tokens(0), memory).values.T for memory in memories])
    close(reads.unflatten(2, key.shape[2:]), case["t1_mem_read"], 5e-4)
    logits = geometry.crop(network.segment(query, reads.unflatten(2, key.shape[2:]), [2])[0])
    close(network.probability(logits), case["t1_prob"], 3e-4)


def test_the_published_loop(case: Case, network: StmNetwork) -> None:
    spec = EngineSpec(CATALOG["stm"], 480, 5, "0" * 64, torch.float32, CPU, deterministic=True)
    engine = SpaceTimeEngine(spec, network, SETTINGS)
    policy = MemoryPolicy("every_k", memorize_every=int(case["mem_every"]), exact=True)
    frames = case["frames"].astype(np.uint8)
    track = engine.open(Size.of(frames[0]), policy)
    engine.memorize(track, frames[0], case["label0"].astype(np.uint8), object_ids=[1, 2])
    cells = track.geometry.cells
    for t in range(1, len(frames)):
        beside = len(track.short_term[1].keys) if track.short_term else 0
        assert (len(track.banks[1]) + beside) // cells == case[f"t{t}_mem_frames"]
        seen = engine.propagate([track], [frames[t]], probability=True)[0]
        assert seen.probability is not None
        close(seen.probability, case[f"t{t}_prob"], 3e-4)
        top = np.sort(case[f"t{t}_prob"], axis=0)
        clear = top[-1] - top[-2] > 1e-3
        lost = ~np.isin(case["masks"][t], [0, *(i for i in (1, 2) if track.visibility.is_visible(i))])
        np.testing.assert_array_equal(seen.label_map[clear & ~lost], case["masks"][t][clear & ~lost])
        assert clear.mean() > 0.99
