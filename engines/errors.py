"""Errors that engines raise. The service maps them to HTTP; nothing here knows that.

EngineError
├── UnknownEngine          no engine of that name; the message lists the names
├── WeightsError           a checkpoint is missing, truncated, or of another variant
├── DeviceUnavailable      a device that PyTorch does not know, or that this machine does not have
├── NoReferenceFrame       propagate() before the first memorize()
├── FrameSizeChanged       a frame or map of another size than the track's
├── BudgetTooSmall         the memory budget cannot hold what must stay; names the smallest that can
├── UnsupportedReference   a kind of reference this engine does not take
├── UnusableReference      a box, a point or a text that names nothing in the frame
├── StateMismatch          a snapshot of another engine, weights, or schema
└── TrainingDataError      nothing usable is left of the training data
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of everything an engine raises on purpose."""


class UnknownEngine(EngineError):
    """No engine of that name."""


class WeightsError(EngineError):
    """A checkpoint is missing, truncated, or does not fit the network."""


class DeviceUnavailable(EngineError):
    """No such device, or none on this machine."""


class NoReferenceFrame(EngineError):
    """propagate() was called on a track that has memorised nothing."""


class FrameSizeChanged(EngineError):
    """A frame or label map differs in size from the track it was given to."""


class BudgetTooSmall(EngineError):
    """The memory budget cannot hold what must stay; the message names the smallest that can."""


class UnsupportedReference(EngineError):
    """The engine does not take this kind of reference."""


class UnusableReference(EngineError):
    """A box, a point, a text or a frame from which no object can be made; the message is for the client."""


class StateMismatch(EngineError):
    """A snapshot was made by another engine, other weights, or another schema."""


class TrainingDataError(EngineError):
    """No usable training data is left after the broken items were skipped."""
