"""Reference outputs of the released FEELVOS code, and the network with the weights they were made with."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.feelvos.config import FEELVOS
from engines.feelvos.model import FeelvosNet
from engines.feelvos.weights import convert

COMMITTED = Path(__file__).parents[1] / "fixtures" / "feelvos"
ROOT = Path(__file__).parents[3]


def folders() -> list[Path]:
    """The committed cut, and the full outputs where this machine has them."""
    outside = Path(os.environ.get("MASKSTREAM_PARITY_DIR", ROOT.parent / "shared" / "parity")) / "feelvos"
    return [COMMITTED, *([outside] if outside.is_dir() else [])]


@pytest.fixture(scope="session", params=folders(), ids=lambda path: "full" if path != COMMITTED else "cut")
def folder(request: pytest.FixtureRequest) -> Path:
    """A folder of reference outputs."""
    path: Path = request.param
    return path


@pytest.fixture(scope="session")
def matching(folder: Path) -> Mapping[str, NDArray[Any]]:
    """Embeddings, labels and distances."""
    return np.load(folder / "matching_a.npz")


@pytest.fixture(scope="session")
def case(folder: Path) -> Mapping[str, NDArray[Any]]:
    """Three frames through the whole released network."""
    return np.load(folder / "case_a.npz")


def seeded(name: str, shape: tuple[int, ...], gain: float) -> Tensor:
    """The tensor that belongs to a name, the same on every machine."""
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        values = rng.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean":
        values = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1 and leaf in ("weight", "gamma"):
        values = rng.uniform(0.8, 1.2, shape)
    elif len(shape) == 1:
        values = 0.02 * rng.standard_normal(shape)
    else:
        values = gain * rng.standard_normal(shape) / np.sqrt(int(np.prod(shape[1:])))
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope="session")
def published_variables() -> dict[str, NDArray[np.float32]]:
    """Every TensorFlow variable by its name, in TensorFlow's layout."""
    spec = json.loads((COMMITTED / "keys.json").read_text())
    variables = {}
    for seed, shape in spec["keys"].items():
        gains = [gain for prefix, gain in spec["gains"].items() if seed.startswith(prefix)]
        array = seeded(seed, tuple(shape), gains[0] if gains else 1.0).numpy()
        name = seed.replace("running_mean", "moving_mean").replace("running_var", "moving_variance").replace(".", "/")
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if name.endswith("depthwise_weights") else (2, 3, 1, 0))
        variables[name] = np.ascontiguousarray(array)
    return variables


@pytest.fixture(scope="session")
def network(published_variables: dict[str, NDArray[np.float32]]) -> FeelvosNet:
    """The published architecture with the reference outputs' weights."""
    network = FeelvosNet(FEELVOS).eval()
    network.load_state_dict(convert(published_variables, network))
    return network
