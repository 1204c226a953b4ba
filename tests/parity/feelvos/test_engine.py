"""The engine, fed frames and one reference, against the released whole-video loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engines.catalog import CATALOG
from engines.feelvos.engine import FeelvosEngine
from engines.feelvos.model import FeelvosNet
from engines.protocols import EngineSpec
from engines.types import MemoryPolicy, Size


def test_a_whole_video_equals_the_released_loop(network: FeelvosNet, case: Mapping[str, NDArray[Any]]) -> None:
    spec = EngineSpec(CATALOG["feelvos"], 480, 9999, "parity", torch.float32, torch.device("cpu"), deterministic=True)
    engine = FeelvosEngine(network, spec)
    frames = case["frames"]
    track = engine.open(Size.of(frames[0]), MemoryPolicy(kind="every_k"))
    engine.memorize(track, frames[0], case["label0"].astype(np.uint8), object_ids=(1, 2))
    for step in (1, 2):
        prediction = engine.propagate([track], [frames[step]], probability=True)[0]
        assert prediction.probability is not None
        mask = prediction.probability.argmax(0).numpy()
        # Weights are random: about five pixels per frame lie within 1e-4 of a tie, and step 2 starts from step 1's.
        assert int((mask != case[f"t{step}/mask"]).sum()) <= 5 * step
