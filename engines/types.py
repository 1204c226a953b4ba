"""The values that cross an engine's border. Nothing here knows a network, a bank, or the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

ObjectId = NewType("ObjectId", int)
"""The client's object id, 1..254. Never renumbered; its position in a tensor is a *channel*."""

Frame = NDArray[np.uint8]
"""[H, W, 3] RGB, 0..255, as displayed."""

LabelMap = NDArray[np.uint8]
"""[H, W]; 0 is background, otherwise the client's object id."""

MAX_OBJECT_ID = 254
IGNORE_LABEL = 255

BankKind = Literal["every_k", "window", "adaptive"]


@dataclass(frozen=True)
class Size:
    """Height and width in pixels, in that order everywhere."""

    height: int
    width: int

    @classmethod
    def of(cls, array: NDArray[np.uint8]) -> Size:
        """The size of a frame or a label map."""
        return cls(int(array.shape[0]), int(array.shape[1]))


@dataclass(frozen=True)
class MemoryPolicy:
    """How a track remembers.

    budget_tokens or budget_mib bounds the long-term memory of one track, all objects together; with neither, the
    engine's own default budget applies. memorize_every counts the track's own steps; None takes the engine's own.
    exact selects the released arithmetic of the adaptive bank (for parity), static preallocates the whole budget.
    """

    kind: BankKind = "adaptive"
    budget_tokens: int | None = None
    budget_mib: float | None = None
    memorize_every: int | None = None
    merge_threshold: float | None = None
    exact: bool = False
    static: bool = False

    def __post_init__(self) -> None:
        if self.budget_tokens is not None and self.budget_mib is not None:
            raise ValueError("give budget_tokens or budget_mib, not both")
        for name in ("budget_tokens", "budget_mib", "memorize_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")


@dataclass(frozen=True)
class Prediction:
    """One segmented frame.

    label_map: [H, W] uint8, the client's object ids.
    scores: per object the mean probability over its pixels, 0.0 when it is not visible.
    uncertainty: per object exp(1 - p1/p2) over its pixels (AFB-URR), 1.0 when nothing can be told apart.
    probability: [K+1, H, W] float32, background first, then the objects by ascending id; only when asked for.
    """

    label_map: LabelMap
    scores: dict[int, float]
    uncertainty: dict[int, float]
    probability: Tensor | None = None


@dataclass(frozen=True)
class TrackState:
    """Everything of one track, as plain values and tensors on the host; byte-equal after restore()."""

    meta: Mapping[str, int | str]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
