"""Label maps between the displayed size and the size that an engine is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LabelMap = NDArray[np.uint8]


def resize_labels(label_map: LabelMap, size: tuple[int, int]) -> LabelMap:
    """[H, W] label map at another (height, width), by the nearest pixel centre."""
    if label_map.shape == size:
        return label_map
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for old, new in zip(label_map.shape, size, strict=True)
    )
    return np.ascontiguousarray(label_map[rows[:, None], columns[None, :]])
