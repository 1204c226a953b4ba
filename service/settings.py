"""Every limit and switch of the service in one frozen object.

Built once in an entry point (`Settings()` reads the environment, prefix `MASKSTREAM_`) and passed down; nothing reads
the environment later. What it does not know: Redis commands, routes, engines.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_READ_ELSEWHERE = ("MASKSTREAM_URL", "MASKSTREAM_WEIGHTS_DIR")
_ALIKE = 0.9
GIB = 1024**3
MIB = 1024**2


def _split(value: Any) -> Any:
    """`a, b` in the environment is ("a", "b")."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """The whole configuration. Units are in the names; sizes are pixels as displayed."""

    model_config = SettingsConfigDict(env_prefix="MASKSTREAM_", frozen=True, extra="forbid", env_ignore_empty=True)

    # Where things are
    redis_url: str | None = Field(default=None, description="Redis or Valkey; without it `serve` starts its own")
    redis_prefix: str = Field(default="maskstream:", description="Prefix of every key: one server can be shared")
    data_dir: Path = Field(default=Path("maskstream-data"), description="Videos, masks, snapshots, embedded Redis")
    storage_url: str | None = Field(default=None, description="s3://bucket/prefix instead of the data folder")
    s3_endpoint: str | None = Field(default=None, description="Address of an S3 server other than AWS")
    copies_bytes: PositiveInt = Field(
        default=32 * GIB, description="Disk that a process may use for copies of what an S3 storage holds"
    )
    host: str = Field(default="127.0.0.1", description="Address to bind; anything but loopback needs a key")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to bind; 0 takes a free one")

    # Access
    api_key: SecretStr | None = Field(
        default=None, description="A key that the API accepts beside those of `maskstream keys`"
    )
    allowed_hosts: Names = Field(default=(), description="Accepted Host headers; empty: any with keys")
    cors_origins: Names = Field(default=(), description="Origins that browsers may call from; empty: none")
    require_key: bool = Field(default=False, description="Ask for a key even on loopback without any key made")
    metrics_public: bool = Field(default=False, description="Serve /metrics without a key")
    docs: bool = Field(default=True, description="Serve /docs and /openapi.json")
    rate_limit_per_minute: PositiveInt = Field(default=600, description="Requests per key or address, steady")
    rate_limit_burst: PositiveInt = Field(default=120, description="Requests per key or address, at once")
    rate_limit_pictures_per_minute: PositiveInt = Field(
        default=3600, description="Single frames and thumbnails per key or address, steady; counted apart"
    )

    # Uploads
    max_upload_bytes: PositiveInt = Field(default=2 * GIB, description="Whole request body of an upload")
    max_body_bytes: PositiveInt = Field(default=4 * MIB, description="Body of any other request")
    max_mask_bytes: PositiveInt = Field(default=16 * MIB, description="One mask or exemplar part")
    max_reference_bytes: PositiveInt = Field(default=64 * MIB, description="All mask and exemplar parts of one form")
    max_field_bytes: PositiveInt = Field(default=1 * MIB, description="One text field of a form")
    max_parts: PositiveInt = Field(default=600, description="Parts of one form")
    upload_idle_timeout_s: PositiveFloat = Field(
        default=30.0, description="Longest pause inside a body; time for headers"
    )
    max_concurrent_uploads: PositiveInt = Field(
        default=32, description="Uploads at once per API process; half for one key"
    )
    min_free_bytes: int = Field(default=1 * GIB, ge=0, description="Uploads are refused (507) below this much disk")

    # Videos and references
    max_pixels: PositiveInt = Field(default=4096 * 2304, description="Height x width of a frame")
    min_side: PositiveInt = Field(default=16, description="Shortest side of a frame that is accepted")
    max_side_limit: PositiveInt = Field(default=4096, description="Largest `max_side` that a client may ask for")
    max_frames: PositiveInt = Field(default=500_000, description="Frames of one video")
    max_duration_s: PositiveFloat = Field(default=6 * 3600.0, description="Length of one video")
    max_objects: int = Field(default=64, ge=1, le=254, description="Objects of one session")
    max_references: PositiveInt = Field(default=512, description="References of one session")
    default_engine: str = Field(
        default="",
        description="Engine of a session that names none; empty: the catalog's, else the first of ENGINES",
    )

    # Decoding and probing, in child processes
    decode_memory_mib: PositiveInt = Field(default=3072, description="Address space of a decode or probe child")
    decode_frame_timeout_s: PositiveFloat = Field(default=20.0, description="Wall time for one frame, seeks apart")
    decode_seek_timeout_s: PositiveFloat = Field(default=120.0, description="Wall time to open a video and seek")
    decode_readahead: PositiveInt = Field(default=2, description="Frames decoded ahead of the worker")
    probe_timeout_s: PositiveFloat = Field(default=30.0, description="Wall time to inspect an upload")
    max_concurrent_probes: PositiveInt = Field(default=4, description="Probe children at once per API process")

    # Sessions
    session_ttl_s: PositiveInt = Field(default=24 * 3600, description="A session's files live this long")
    max_sessions_per_key: PositiveInt = Field(default=64, description="Unfinished sessions of one key")
    max_queue_length: PositiveInt = Field(default=256, description="Waiting sessions in all; beyond it 429")
    retry_after_s: PositiveInt = Field(default=10, description="What a refused client is told to wait")
    idempotency_ttl_s: PositiveInt = Field(default=24 * 3600, description="An Idempotency-Key is remembered this long")
    orphan_age_s: PositiveInt = Field(default=3600, description="Files that nothing names, and exports, go after this")
    janitor_interval_s: PositiveFloat = Field(default=300.0, description="Pause between two clean-ups")

    # Sockets
    max_sockets: PositiveInt = Field(default=2000, description="Open WebSockets per API process")
    socket_buffer_bytes: PositiveInt = Field(default=1 * MIB, description="Messages held for one slow reader")
    socket_send_buffer_bytes: PositiveInt = Field(
        default=512 * 1024, description="Kernel's send buffer of a connection"
    )
    socket_stall_s: PositiveFloat = Field(default=30.0, description="A reader that takes nothing this long is closed")
    drain_timeout_s: PositiveFloat = Field(default=20.0, description="Time for sockets and requests to end on SIGTERM")

    # Live sessions
    max_live_frame_bytes: PositiveInt = Field(default=8 * MIB, description="One message of a live client")
    live_input_bytes: PositiveInt = Field(default=64 * MIB, description="Frames of one live session held in Redis")
    live_keep_s: PositiveFloat = Field(default=600.0, description="A live session's masks are kept so long, at most")
    live_idle_s: PositiveFloat = Field(default=30.0, description="Without a frame this long it gives its worker up")
    live_gone_s: PositiveFloat = Field(default=600.0, description="Without a frame this long it is completed")

    # Workers
    engines: Names = Field(default=(), description="Engines that a worker serves; empty: every one it can")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1; all: a worker for each")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: float32 on CPU, bfloat16 on CUDA"
    )
    deterministic: bool | None = Field(default=None, description="Bit-equal masks; default on CPU only")
    threads: PositiveInt | None = Field(
        default=None, description="Processor threads of a worker's torch; default: OMP_NUM_THREADS, else one per core"
    )
    compile: bool = Field(default=False, description="torch.compile the networks (slow first step)")
    device_memory_mib: int | None = Field(default=None, gt=0, description="What a worker may use; default: measured")
    max_tracks: PositiveInt = Field(default=32, description="Sessions that one worker steps together")
    quantum_s: PositiveFloat = Field(default=30.0, description="A session yields after this when others wait")
    poll_interval_s: PositiveFloat = Field(
        default=1.0, description="How often a worker looks for jobs and orders that Redis has not told it of at once"
    )
    sweep_interval_s: PositiveFloat = Field(default=1.0, description="How often the sessions of dead workers are taken")
    lease_step_s: PositiveFloat | None = Field(
        default=None,
        description="A worker whose step takes longer loses its sessions; default: 10 on a GPU, 120 on a CPU",
    )
    lease_restore_s: PositiveFloat = Field(default=120.0, description="The same for restoring or seeking a session")
    lease_warmup_s: PositiveFloat = Field(default=180.0, description="The same for the first step of a frame size")
    lease_load_s: PositiveFloat = Field(default=600.0, description="The same for loading an engine")
    max_attempts: PositiveInt = Field(default=3, description="Worker deaths at one place before a session is poison")
    snapshot_interval_s: PositiveFloat = Field(default=1.0, description="Shortest time between two snapshots")
    snapshot_share: PositiveFloat = Field(default=0.05, le=1.0, description="Share of a worker's time they may take")
    archive_every: PositiveInt = Field(default=64, description="Masks of one archive file")
    archive_interval_s: PositiveFloat = Field(default=5.0, description="Masks wait no longer for their archive file")
    fake_step_s: float = Field(default=0.0, ge=0, description="Time that the engine `fake` takes for a step; for tests")
    worker_metrics_port: int | None = Field(default=None, description="Port of a worker's own /metrics")

    # Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level logged")
    log_format: Literal["auto", "json", "console"] = Field(default="auto", description="auto: console on a terminal")

    @property
    def is_embedded(self) -> bool:
        """Whether `serve` runs its own Redis."""
        return self.redis_url is None

    def environment(self) -> dict[str, str]:
        """Variables that give a child process these very settings."""
        values = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value is not None:
                shown = ",".join(value) if isinstance(value, tuple) else str(value)
                values[f"MASKSTREAM_{name.upper()}"] = shown
        return values


def mistyped_variables(environment: Iterable[str]) -> list[tuple[str, str]]:
    """(variable, the setting that is nearly called so): what nothing reads would be missed for long.

    Variables that resemble none are somebody else's; Kubernetes makes such ones of the names of services.
    """
    known = [f"MASKSTREAM_{name.upper()}" for name in Settings.model_fields]
    found = []
    for name in sorted(set(environment) - {*known, *_READ_ELSEWHERE}):
        if name.startswith("MASKSTREAM_") and (near := get_close_matches(name, known, 1, _ALIKE)):
            found.append((name, near[0]))
    return found
