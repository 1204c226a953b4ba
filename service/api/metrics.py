"""Prometheus metrics of an API process, in base units."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUEST_SECONDS = Histogram(
    "maskstream_http_request_seconds",
    "Time from request to the end of the answer",
    ("method", "route", "status"),
    buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0),
)
UPLOAD_BYTES = Counter("maskstream_upload_bytes", "Bytes of uploaded videos that were accepted")
SESSIONS_ACCEPTED = Counter("maskstream_sessions_accepted", "Sessions accepted", ("engine",))
SOCKETS = Gauge("maskstream_sockets", "Open mask sockets")
SOCKET_MESSAGES = Counter("maskstream_socket_messages", "Mask messages sent", ("format",))
SOCKETS_STALLED = Counter("maskstream_sockets_stalled", "Sockets closed because their reader took nothing")
PNG_ENCODED = Counter("maskstream_png_encoded", "Mask PNGs encoded for sockets")
QUEUED = Gauge("maskstream_queue_length", "Sessions that wait for a worker", ("engine",))
WORKERS = Gauge("maskstream_workers", "Workers with a lease")
WORKER_SESSIONS = Gauge("maskstream_worker_sessions", "Sessions that workers hold")
STORAGE_FREE_BYTES = Gauge("maskstream_storage_free_bytes", "Free bytes of the storage")
SESSIONS_EXPIRED = Counter("maskstream_sessions_expired", "Sessions whose files the janitor removed")
ORPHANS_REMOVED = Counter("maskstream_orphans_removed", "Files and folders that nothing named any more")
