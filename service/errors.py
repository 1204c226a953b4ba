"""Everything that the service refuses or fails with, and how each shows itself to a client.

MaskstreamError                 500   a defect of ours when it reaches a client
├── InvalidInput                422   what was sent cannot be used; the message says what to do
│   ├── MalformedRequest        400   the request itself cannot be parsed
│   ├── RequestTimedOut         408   the client stopped sending in the middle of a body
│   ├── UploadTooLarge          413   a byte limit was passed while streaming           socket 4413
│   ├── UnsupportedMedia        415   a container, codec or content type that is not taken
│   ├── UnreadableVideo         422   empty, truncated, no video stream, too large, too long
│   ├── UnreadableMask          422   wrong size, mode or content of a mask
│   ├── UnknownEngine           422   no such engine; lists the names
│   └── DoesNotFit              422   no worker has the memory for it
├── Unauthorized                401   no key, or one that is unknown or revoked     socket 4401
├── Forbidden                   403   Host or Origin rule                            socket 4403
├── NotFound                    404   no such session, mask or object                socket 4404
├── Conflict                    409   not in this state, or an Idempotency-Key reused
├── Expired                     410   the session existed; its files are gone        socket 4410
├── TooManyRequests             429   a rate, session, queue or socket limit         socket 1013
├── Unavailable                 503   Redis, storage or workers cannot be reached    socket 1013
├── StorageFull                 507   the disk has no room for another upload
└── SessionFailure                    ends one session as `failed`; never an HTTP answer by itself
    ├── DecodeFailed                  the video cannot be decoded at one frame
    ├── EpochLost                     another worker owns the session now
    └── Poisoned                      the session killed its worker too often
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class MaskstreamError(Exception):
    """Root of everything raised on purpose. Catch it where an answer is made, nowhere else."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    close_code: ClassVar[int] = 1011

    def __init__(self, detail: str, *, retry_after_s: int | None = None, **extensions: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.extensions: Mapping[str, object] = extensions


class InvalidInput(MaskstreamError):
    """What was sent cannot be used."""

    status = 422
    slug = "invalid-input"
    title = "The request cannot be used as it is"
    close_code = 4422


class MalformedRequest(InvalidInput):
    """The request cannot be parsed."""

    status = 400
    slug = "malformed-request"
    title = "The request is malformed"
    close_code = 4400


class RequestTimedOut(InvalidInput):
    """The client stopped sending in the middle of a body."""

    status = 408
    slug = "timeout"
    title = "The request took too long"


class UploadTooLarge(InvalidInput):
    """A byte limit was passed while streaming."""

    status = 413
    slug = "too-large"
    title = "The upload is too large"
    close_code = 4413


class UnsupportedMedia(InvalidInput):
    """A container, codec or content type that is not taken."""

    status = 415
    slug = "unsupported-media"
    title = "This kind of file is not supported"


class UnreadableVideo(InvalidInput):
    """The video cannot be used."""

    slug = "unreadable-video"
    title = "The video cannot be used"


class UnreadableMask(InvalidInput):
    """The mask cannot be used."""

    slug = "unreadable-mask"
    title = "The mask cannot be used"


class UnknownEngine(InvalidInput):
    """No engine of that name."""

    slug = "unknown-engine"
    title = "No such engine"


class DoesNotFit(InvalidInput):
    """No worker has the memory for this session."""

    slug = "does-not-fit"
    title = "The session needs more memory than any worker has"


class Unauthorized(MaskstreamError):
    """No valid key."""

    status = 401
    slug = "unauthorized"
    title = "A valid key is needed"
    close_code = 4401


class Forbidden(MaskstreamError):
    """Refused by the Host or Origin rule."""

    status = 403
    slug = "forbidden"
    title = "Not allowed"
    close_code = 4403


class NotFound(MaskstreamError):
    """No such thing, or not the caller's."""

    status = 404
    slug = "not-found"
    title = "Not found"
    close_code = 4404


class Conflict(MaskstreamError):
    """Not possible in the present state."""

    status = 409
    slug = "conflict"
    title = "Not possible in the present state"
    close_code = 4409


class Expired(MaskstreamError):
    """The session existed; its files are gone."""

    status = 410
    slug = "expired"
    title = "The session has expired"
    close_code = 4410


class TooManyRequests(MaskstreamError):
    """A rate, session, queue or socket limit."""

    status = 429
    slug = "too-many-requests"
    title = "Too many requests"
    close_code = 1013


class Unavailable(MaskstreamError):
    """A part that is needed cannot be reached."""

    status = 503
    slug = "unavailable"
    title = "Not available at the moment"
    close_code = 1013


class StorageFull(MaskstreamError):
    """No room for another upload."""

    status = 507
    slug = "storage-full"
    title = "The server's storage is full"


class SessionFailure(MaskstreamError):
    """Ends one session as failed; its masks so far are kept."""

    slug = "session-failed"
    title = "The session failed"


class DecodeFailed(SessionFailure):
    """The video cannot be decoded at `frame_index`."""

    slug = "decode-failed"
    title = "The video cannot be decoded"

    def __init__(self, detail: str, *, frame_index: int) -> None:
        super().__init__(detail, frame_index=frame_index)
        self.frame_index = frame_index


class EpochLost(SessionFailure):
    """Another worker owns the session now; this one must drop it without a word."""

    slug = "epoch-lost"
    title = "The session moved to another worker"


class Poisoned(SessionFailure):
    """The session ended its worker's process too often."""

    slug = "poison"
    title = "The session stopped its worker too often"


def problem(error: MaskstreamError, *, request_id: str | None = None) -> dict[str, Any]:
    """The RFC 9457 document of an error; what HTTP answers, sockets and failed sessions carry."""
    document: dict[str, Any] = {
        "type": f"urn:maskstream:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        **error.extensions,
    }
    if error.retry_after_s is not None:
        document["retry_after_s"] = error.retry_after_s
    if request_id is not None:
        document["request_id"] = request_id
    return document
