"""What every engine promises. The worker and the tests know engines by this page alone.

An engine holds weights on one device and nothing of any video. All state of a video is its Track.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from engines.catalog import EngineInfo
from engines.types import Frame, LabelMap, MemoryPolicy, Prediction, Size, TrackState


@runtime_checkable
class Track(Protocol):
    """The state of one video in one direction. Opaque but for these."""

    @property
    def size(self) -> Size:
        """Size of its frames and label maps, in pixels as displayed."""
        ...

    @property
    def network_size(self) -> Size:
        """Size the network sees. Only tracks that agree in it may share one propagate() call."""
        ...

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The client's ids that the track follows, ascending."""
        ...

    @property
    def steps(self) -> int:
        """Frames propagated so far."""
        ...

    @property
    def bank_bytes(self) -> int:
        """Bytes that the track's memory holds now."""
        ...

    @property
    def bank_tokens(self) -> int:
        """Tokens in the long-term memory now."""
        ...


@runtime_checkable
class HasWarnings(Protocol):
    """A track that may have something to tell the client, such as an object too small to follow well."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the client, oldest first, each once."""
        ...


@dataclass(frozen=True)
class EngineSpec:
    """Facts of a loaded engine: the catalog's, and those that belong to its weights."""

    info: EngineInfo
    net_short_side: int
    memorize_every: int
    weights_sha256: str
    dtype: torch.dtype
    device: torch.device
    deterministic: bool


@runtime_checkable
class Engine(Protocol):
    """Weights on one device; holds nothing of any video."""

    @property
    def spec(self) -> EngineSpec:
        """Facts of this engine and its weights."""
        ...

    def open(self, size: Size, memory: MemoryPolicy) -> Any:
        """An empty track for frames of `size`. Raises BudgetTooSmall."""
        ...

    def memorize(self, track: Any, frame: Frame, label_map: LabelMap, *, object_ids: Collection[int]) -> None:
        """Take a reference. `object_ids` are those that the map annotates; 0 is background for them only.

        Raises FrameSizeChanged. Does not move the track on.
        """
        ...

    def propagate(
        self, tracks: Sequence[Any], frames: Sequence[Frame], *, probability: bool = False
    ) -> list[Prediction]:
        """Move each track one frame on and feed its memory by its own policy.

        All tracks share one network_size; object counts and bank fills may differ.
        Raises NoReferenceFrame, FrameSizeChanged.
        """
        ...

    def forget(self, track: Any, object_id: int) -> None:
        """Stop following one object; its tokens leave the memory. Raises KeyError for an unknown id."""
        ...

    def snapshot(self, track: Any) -> TrackState:
        """The whole state of a track, copied to the host. The track goes on unchanged."""
        ...

    def restore(self, state: TrackState) -> Any:
        """The track that snapshot() saw, byte for byte. Raises StateMismatch."""
        ...

    def track_bytes(self, size: Size, objects: int, memory: MemoryPolicy) -> int:
        """Upper bound of device bytes that one track will take, its share of the activations included."""
        ...


@dataclass(frozen=True)
class Grounding:
    """Where in a frame the referred object is.

    probability: [H, W] float32 on the host, at the frame's size. score: how sure it is that the object is there at all,
    0..1. unknown_words: words of a text that the engine does not know and left out.
    """

    probability: NDArray[np.float32]
    score: float
    unknown_words: tuple[str, ...] = ()


@runtime_checkable
class ReferenceSegmenter(Protocol):
    """Finds an object in one frame by something other than its mask there. Not every engine does."""

    def ground(
        self,
        frame: Frame,
        *,
        text: str | None = None,
        exemplar: Frame | None = None,
        exemplar_mask: LabelMap | None = None,
    ) -> Grounding:
        """Find what `text` describes, or what `exemplar_mask` (non-zero) marks in another picture, `exemplar`.

        Give the text, or the exemplar with its mask, not both. Raises UnsupportedReference, its message for the client.
        """
        ...


@dataclass(frozen=True)
class Proposal:
    """What may be an object. mask: [H, W] bool at the frame's size. score: 0..1, higher is surer."""

    mask: NDArray[np.bool_]
    score: float


@runtime_checkable
class Proposer(Protocol):
    """Finds objects that nobody pointed at."""

    def propose(self, frames: Sequence[Frame]) -> list[Proposal]:
        """Proposals for the first of `frames`, best first; they may overlap.

        The frames after it, if there are any, are its successors in time and only tell what moves.
        """
        ...


@runtime_checkable
class ThoroughProposer(Proposer, Protocol):
    """A proposer that can also look closer."""

    def thorough(self) -> Proposer:
        """A slower proposer on the same weights that finds smaller objects too."""
        ...


Meta = Mapping[str, int | str]
