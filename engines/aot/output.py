"""From the decoder's channels to probabilities of objects, and to the label map that the memory is fed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engines.aot.model import resize_logits
from engines.labels import Slots, merge_groups, most_probable
from engines.transforms import resize_labels
from engines.types import LabelMap, Size

_NEVER = -1e4


def object_probability(
    logits: Sequence[Tensor], slots: Sequence[Slots], size: Size, *, align_corners: bool
) -> tuple[Tensor, tuple[int, ...]]:
    """Distribution over the background and the objects of all groups at `size`, and the objects' ids.

    logits: per group [channels, h4, w4]; channels that no object has are left out. Returns [K + 1, H, W] float32 and
    K ids, ascending. At least one group.
    """
    probabilities = []
    for row, group in zip(logits, slots, strict=True):
        unused = set(range(row.shape[0])) - set(group.ordered_channels())
        used = row.index_fill(0, torch.tensor(sorted(unused), dtype=torch.int64, device=row.device), _NEVER)
        resized = resize_logits(used[None], (size.height, size.width), align_corners=align_corners)
        probabilities.append(torch.softmax(resized[0], dim=0))
    return merge_groups(probabilities, slots)


def memory_labels(probability: Tensor, object_ids: Sequence[int], size: Size) -> LabelMap:
    """The most probable object of each pixel, lost ones included, at the network's size."""
    names = np.array([0, *object_ids], dtype=np.uint8)
    return resize_labels(names[most_probable(probability).cpu().numpy()], size)
