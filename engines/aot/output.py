"""From the decoder's channels to probabilities of objects, and to the label map that the memory is fed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engines.aot.model import resize_logits
from engines.labels import Slots, merge_groups
from engines.transforms import resize_labels
from engines.types import LabelMap, Size


def object_probability(
    logits: Sequence[Tensor], slots: Sequence[Slots], size: Size, *, align_corners: bool
) -> tuple[Tensor, tuple[int, ...]]:
    """Distribution over the background and the objects of all groups at `size`, and the objects' ids.

    logits: per group [channels, h4, w4]; channels that no object has count for nothing. Returns [K + 1, H, W] float32
    and K ids, ascending. At least one group.
    """
    probabilities = []
    for row, group in zip(logits, slots, strict=True):
        used = row[group.ordered_channels()][None]
        resized = resize_logits(used, (size.height, size.width), align_corners=align_corners)
        probabilities.append(torch.softmax(resized[0], dim=0))
    return merge_groups(probabilities, slots)


def memory_labels(label: Tensor, object_ids: Sequence[int], size: Size) -> LabelMap:
    """The most probable object of each pixel, lost ones included, at the network's size.

    label: [H, W] place of the most probable channel, 0 for the background, then `object_ids` in their order.
    """
    names = np.array([0, *object_ids], dtype=np.uint8)
    return names[resize_labels(label.cpu().numpy(), size)]
