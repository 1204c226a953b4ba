"""One video of UniRef++: what it holds, and what it may cost. Knows no network."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engines.errors import BudgetTooSmall, FrameSizeChanged
from engines.types import MemoryPolicy, Size
from engines.uniref.inference import Geometry, network_masks
from engines.uniref.preprocess import padded
from engines.uniref.state import held_tensors
from engines.uniref.unifusion import Reference
from engines.uniref.video import Objects
from engines.visibility import Visibility

STRIDE = 8
REFERENCES_PER_OBJECT = 3
_TOKENS_PER_CELL = sum(0.25**level for level in range(4))  # tokens of all levels, per cell of the finest


@dataclass
class UniRefTrack:
    """One video in one direction."""

    size: Size
    geometry: Geometry
    memory: MemoryPolicy
    visibility: Visibility
    objects: Objects[Reference] = field(default_factory=dict)
    steps: int = 0

    @property
    def network_size(self) -> Size:
        """Size of the network's input."""
        return self.geometry.padded

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The client's ids that it follows, ascending."""
        return tuple(sorted(self.objects))

    @property
    def bank_bytes(self) -> int:
        """Bytes of all references, shared ones once."""
        return sum(tensor.nbytes for tensor in held_tensors(self.objects))

    @property
    def bank_tokens(self) -> int:
        """Tokens of all mask references of all objects, over all levels."""
        masks = (reference for memory in self.objects.values() for reference in memory.masks())
        return sum(int(part.values.shape[1]) for reference in masks for part in reference)


def reference_tokens(geometry: Geometry) -> int:
    """Most tokens that one mask reference takes, all levels together."""
    whole = padded(geometry.inner)
    return round(whole.height * whole.width / STRIDE**2 * _TOKENS_PER_CELL) + 1


def reference_masks(masks: Tensor, geometry: Geometry) -> Tensor:
    """[n, H, W] bool to [n, 1, H', W'] for the mask encoder: nearest, and never empty unless the mask is."""
    nearest = network_masks(masks, geometry)
    size = (geometry.inner.height, geometry.inner.width)
    covered = F.adaptive_max_pool2d(masks.unsqueeze(1).float(), size)
    lost = nearest.flatten(1).sum(1) == 0
    nearest[lost, :, : size[0], : size[1]] = covered[lost]
    return nearest


def check_size(track: UniRefTrack, picture: NDArray[np.uint8]) -> None:
    """A frame or label map must have the track's size. Raises FrameSizeChanged."""
    if Size.of(picture) != track.size:
        raise FrameSizeChanged(f"the track has {track.size}, this frame or map is {Size.of(picture)}")


def check_budget(memory: MemoryPolicy, geometry: Geometry, dim: int, *, objects: int) -> None:
    """The references of so many objects must fit the budget; none of them can be left out. Raises BudgetTooSmall."""
    tokens = objects * REFERENCES_PER_OBJECT * reference_tokens(geometry)
    mib = tokens * dim * 2 * 4 / 2**20
    if memory.budget_tokens is not None and memory.budget_tokens < tokens:
        raise BudgetTooSmall(f"{objects} objects at {geometry.outer} need {tokens} tokens, not {memory.budget_tokens}")
    if memory.budget_mib is not None and memory.budget_mib < mib:
        raise BudgetTooSmall(f"{objects} objects at {geometry.outer} need {mib:.1f} MiB, not {memory.budget_mib}")
