"""Reference outputs of the released FEELVOS code, and the network with the weights they were made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.feelvos.config import FEELVOS
from engines.feelvos.model import FeelvosNet
from engines.feelvos.weights import convert
from tests.parity.weights import fill, load_spec

FindFixtures = Callable[[str], Path]


@pytest.fixture(scope="session")
def matching(fixture_dir: FindFixtures) -> Mapping[str, NDArray[Any]]:
    """Embeddings, labels and distances."""
    return np.load(fixture_dir("feelvos") / "matching_a.npz")


@pytest.fixture(scope="session")
def case(fixture_dir: FindFixtures) -> Mapping[str, NDArray[Any]]:
    """Three frames through the whole released network."""
    return np.load(fixture_dir("feelvos") / "case_a.npz")


@pytest.fixture(scope="session")
def published_variables(fixture_dir: FindFixtures) -> dict[str, NDArray[np.float32]]:
    """Every TensorFlow variable by its name, in TensorFlow's layout."""
    variables = {}
    for seed, tensor in fill(*load_spec(fixture_dir("feelvos"))).items():
        name = seed.replace("running_mean", "moving_mean").replace("running_var", "moving_variance").replace(".", "/")
        array = tensor.numpy()
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
