"""How sure the engine was of every pixel, small enough to be archived: for soft mattes. Knows predictions only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from engines.labels import by_object
from engines.types import Prediction

STRIDE = 4
"""Networks decide at this stride; what lies between is interpolated anyway."""

Probabilities = Mapping[int, NDArray[np.uint8]]
"""Per object id [ceil(H / STRIDE), ceil(W / STRIDE)], 0 never to 255 certain."""


def small_probabilities(prediction: Prediction | None) -> Probabilities:
    """Mean probability of each object in cells of STRIDE x STRIDE pixels, on the host; empty where none is kept."""
    if prediction is None or prediction.probability is None:
        return {}
    cells = F.avg_pool2d(prediction.probability[None].float(), STRIDE, ceil_mode=True)[0]
    levels = (cells.clamp(0, 1) * 255).round().byte().cpu()
    return {object_id: level.numpy() for object_id, level in by_object(levels, prediction.scores).items()}
