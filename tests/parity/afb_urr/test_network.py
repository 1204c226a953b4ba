"""AFB-URR against the reference run: the parts of one step, then the published loop with its bank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.afb_urr.config import VARIANTS
from engines.afb_urr.engine import SETTINGS
from engines.afb_urr.model import AfbUrrNetwork
from engines.afb_urr.weights import load_network
from engines.banks.exact import ExactAdaptiveBank
from engines.banks.readout import Memory, read_bank
from engines.catalog import CATALOG
from engines.checkpoint import load_checkpoint
from engines.protocols import EngineSpec
from engines.space_time.engine import SpaceTimeEngine
from engines.space_time.padding import Geometry
from engines.types import MemoryPolicy, Size
from tests.parity.weights import fill, load_spec

Case = dict[str, NDArray[np.float32]]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(fixture_dir: Callable[[str], Path]) -> Path:
    return fixture_dir("afb_urr")


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    with np.load(folder / "case_a.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def network(folder: Path) -> AfbUrrNetwork:
    net = load_network("afb-urr", load_checkpoint(published(folder), "afb-urr"))
    return net.eval().requires_grad_(False)


def published(folder: Path) -> dict[str, Tensor]:
    """A state dict of the published names."""
    buffers = AfbUrrNetwork(VARIANTS["afb-urr"]).state_dict()
    constants = {name: value for name, value in buffers.items() if name.endswith((".mean", ".std"))}
    return fill(*load_spec(folder)) | constants


def close(got: Tensor, want: NDArray[np.float32], atol: float) -> None:
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=atol)


def test_the_parts_of_the_first_step(case: Case, network: AfbUrrNetwork) -> None:
    geometry = Geometry.of(Size(71, 101), 480)
    one_hot = geometry.one_hot(case["label0"].astype(np.uint8), [1, 2], CPU)
    own, other = network.memory_masks(geometry.pad(one_hot))
    assert bool((other[:, :, 0] == 1).all())  # the padded border is "not this channel" for all
    first, second = (geometry.frame(case["frames"][i].astype(np.uint8), CPU) for i in (0, 1))
    key, value = network.encode_memory(first.expand(3, -1, -1, -1), own, other)
    close(key.flatten(2), case["t0_mem_key"], 2e-4)
    query = network.encode_query(second)
    close(query.key.flatten(2), case["t1_q_key"], 2e-4)
    memories = [Memory(k.flatten(1).T, v.flatten(1).T) for k, v in zip(key, value, strict=True)]
    reads = torch.stack([read_bank(query.tokens(0), memory).values.T for memory in memories])
    refined = network.refinements(query, reads.unflatten(2, key.shape[2:]), [3])[0]
    close(refined.rough_seg, case["t1_rough_seg"], 5e-5)
    close(refined.uncertainty, case["t1_uncertainty"][0, 0], 5e-5)
    close(refined.logits, case["t1_refined"], 2e-4)
    score = geometry.crop(network.segment(query, reads.unflatten(2, key.shape[2:]), [3])[0])
    close(score, case["t1_score"], 2e-4)


def test_the_published_loop_and_its_bank(case: Case, network: AfbUrrNetwork) -> None:
    spec = EngineSpec(CATALOG["afb-urr"], 480, 1, "0" * 64, torch.float32, CPU, deterministic=True)
    engine = SpaceTimeEngine(spec, network, SETTINGS)
    policy = MemoryPolicy(budget_tokens=int(case["budget"]), merge_threshold=float(case["merge_thres"]), exact=True)
    frames = case["frames"].astype(np.uint8)
    track = engine.open(Size.of(frames[0]), policy)
    engine.memorize(track, frames[0], case["label0"].astype(np.uint8), object_ids=[1, 2])
    for t in range(1, len(frames)):
        assert [len(track.banks[c]) for c in (0, 1, 2)] == case["bank_sizes"][t - 1].tolist()
        check_usage(track.banks[0], case[f"t{t - 1}_bank_info_c0"])
        seen = engine.propagate([track], [frames[t]], probability=True)[0]
        assert seen.probability is not None
        if f"t{t}_prob" in case:
            close(seen.probability, case[f"t{t}_prob"], 5e-5)
            top = np.sort(case[f"t{t}_prob"], axis=0)
            visible = np.isin(case["masks"][t], [0, *(i for i in (1, 2) if track.visibility.is_visible(i))])
            clear = (top[-1] - top[-2] > 1e-3) & visible
            np.testing.assert_array_equal(seen.label_map[clear], case["masks"][t][clear])
        if t == 4:
            for c in (0, 1, 2):
                close(track.banks[c].view("key").T, case[f"t4_bank_key_c{c}"], 2e-4)


def check_usage(bank: object, want: NDArray[np.float32]) -> None:
    assert isinstance(bank, ExactAdaptiveBank)
    np.testing.assert_array_equal(bank.arrival().numpy(), want[:, 0])
    np.testing.assert_allclose(bank.usage().numpy(), want[:, 1], atol=1e-5)
