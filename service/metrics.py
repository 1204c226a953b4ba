"""Every Prometheus metric, in base units. One process per container; each exposes its own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

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
