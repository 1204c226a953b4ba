"""What a failed session says of its failure."""

from __future__ import annotations

import structlog
import torch

from engines.errors import EngineError, UnsupportedReference, UnusableReference
from service.errors import MaskstreamError
from service.schemas import Problem
from service.storage import StorageUnavailable

_log = structlog.get_logger()


def problem_of(error: Exception, session_id: str) -> Problem:
    """The client's view of an error; of a defect of ours it says little, and the log says all."""
    if isinstance(error, MaskstreamError):
        return Problem(code=error.slug, detail=error.detail, frame_index=getattr(error, "frame_index", None))
    if isinstance(error, (UnusableReference, UnsupportedReference)):
        return Problem(code="unusable-reference", detail=str(error))
    if isinstance(error, EngineError):
        return Problem(code="engine-error", detail=str(error))
    if isinstance(error, StorageUnavailable):
        return Problem(code="storage-failed", detail=f"the session's files cannot be read: {error}")
    if isinstance(error, torch.OutOfMemoryError):
        detail = "the session takes more device memory than there is; give it a smaller memory budget or max_side"
        return Problem(code="out-of-memory", detail=detail)
    _log.exception("session failed by a defect", session=session_id, exc_info=error)
    return Problem(code="internal", detail=f"the worker failed on this session ({type(error).__name__})")
