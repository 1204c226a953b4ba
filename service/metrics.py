"""Every Prometheus metric, in base units. One process per container; each exposes its own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

# Workers
SESSIONS = Counter("maskstream_sessions", "Sessions that ended, by engine and state", ["engine", "state"])
SESSIONS_RUNNING = Gauge("maskstream_sessions_running", "Sessions that this worker holds")
MASKS = Counter("maskstream_masks", "Masks made, by engine; repeats after a resume included", ["engine"])
STEP_SECONDS = Histogram("maskstream_step_seconds", "Time of one propagate call", ["engine"], buckets=_FAST)
STEP_TRACKS = Histogram("maskstream_step_tracks", "Sessions in one propagate call", buckets=(1, 2, 4, 8, 16, 32))
QUEUE_SECONDS = Histogram("maskstream_queue_seconds", "Time from queued to claimed", buckets=_SLOW)
FIRST_MASK_SECONDS = Histogram("maskstream_first_mask_seconds", "Time from created to first mask", buckets=_SLOW)
BANK_BYTES = Gauge("maskstream_bank_bytes", "Bytes of all feature banks of this worker")
SNAPSHOT_SECONDS = Histogram("maskstream_snapshot_seconds", "Time of one snapshot, copy and write", buckets=_FAST)
LEASES_LOST = Counter("maskstream_leases_lost", "Sessions that another worker took from this one")
SWEPT = Counter("maskstream_swept_sessions", "Sessions taken from dead workers by this process", ["state"])
RESUMED = Counter("maskstream_resumed_sessions", "Sessions that went on, by where from", ["origin"])

# API processes
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
LIVE_SOCKETS = Gauge("maskstream_live_sockets", "Open live connections")
LIVE_FRAMES = Counter("maskstream_live_frames", "Frames taken from live clients")
LIVE_DROPPED = Counter("maskstream_live_dropped_frames", "Frames of live clients that newer ones replaced")
PNG_ENCODED = Counter("maskstream_png_encoded", "Mask PNGs encoded for sockets")
QUEUED = Gauge("maskstream_queue_length", "Sessions that wait for a worker", ("engine",))
WORKERS = Gauge("maskstream_workers", "Workers with a lease")
WORKER_SESSIONS = Gauge("maskstream_worker_sessions", "Sessions that workers hold")
STORAGE_FREE_BYTES = Gauge("maskstream_storage_free_bytes", "Free bytes of the storage")
SESSIONS_EXPIRED = Counter("maskstream_sessions_expired", "Sessions whose files the janitor removed")
ORPHANS_REMOVED = Counter("maskstream_orphans_removed", "Files and folders that nothing named any more")
