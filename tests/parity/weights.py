"""Weights that need no file: each tensor is made from its own name and shape.

A network with the same state-dict keys gets the same values on every machine, so stored reference outputs can be
reproduced without storing the reference's weights. `keys.json` of a fixture lists the keys and the gains.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def tensor_for(name: str, shape: Sequence[int], gain: float = 1.0) -> Tensor:
    """The float32 tensor of that name.

    running_var: uniform in 0.5..1.5. running_mean: 0.1 x normal. One-axis weight or gamma: uniform in 0.8..1.2. Other
    tensors of at most one axis: 0.02 x normal. The rest: gain x normal / sqrt(fan in). num_batches_tracked: zero.
    """
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return torch.zeros(tuple(shape), dtype=torch.long)
    random = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    if leaf == "running_var":
        values = random.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean":
        values = 0.1 * random.standard_normal(shape)
    elif len(shape) > 1:
        values = gain * random.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    elif leaf in ("weight", "gamma"):
        values = random.uniform(0.8, 1.2, shape)
    else:
        values = 0.02 * random.standard_normal(shape)
    return torch.from_numpy(np.array(values, dtype=np.float32).reshape(tuple(shape)))


def fill(keys: Mapping[str, Sequence[int]], gains: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """A state dict for name -> shape. Of the prefixes in `gains` that match a name, the longest counts."""
    known = gains or {}

    def gain_of(name: str) -> float:
        matching = [prefix for prefix in known if name.startswith(prefix)]
        return known[max(matching, key=len)] if matching else 1.0

    return {name: tensor_for(name, shape, gain_of(name)) for name, shape in keys.items()}


def load_spec(folder: str | Path) -> tuple[dict[str, list[int]], dict[str, float]]:
    """Keys (name -> shape) and gains (prefix -> gain) of a fixture folder."""
    spec = json.loads((Path(folder) / "keys.json").read_text())
    return spec["keys"], spec.get("gains", {})
