"""The released UniRef++ code's outputs, and the network with the weights they were made with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from engines.uniref.config import VARIANTS
from engines.uniref.model import UniRef
from engines.uniref.weights import build
from tests.parity.conftest import COMMITTED, full_fixture_dir
from tests.parity.uniref.outputs import Outputs
from tests.parity.weights import fill

CUT = COMMITTED / "uniref"


def _folders() -> list[Path]:
    full = full_fixture_dir()
    return [CUT, *([full / "uniref"] if full is not None and (full / "uniref").is_dir() else [])]


@pytest.fixture(scope="session", params=_folders(), ids=lambda path: "cut" if path == CUT else "full")
def outputs(request: pytest.FixtureRequest) -> Callable[[str], Outputs]:
    """Opens one file of outputs; the cut ones always, the full ones too where they are mounted."""
    folder: Path = request.param
    return lambda name: Outputs(folder / f"{name}_a.npz")


@pytest.fixture(scope="session")
def network() -> UniRef:
    """The published architecture, loaded from a state dict that is laid out as a published file is."""
    spec = json.loads((CUT / "keys.json").read_text())
    state = fill(spec["keys"], spec["gains"])
    state |= {alias: state[name] for alias, name in spec["aliases"].items()}
    state |= {name: torch.zeros(shape) for name, shape in spec["ignored"].items()}
    return build(VARIANTS["uniref"], state)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
