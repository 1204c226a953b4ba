"""A whole service as real processes, for benchmarks: an embedded Redis, the API and one worker, and what they use."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.embedded import EmbeddedRedis
from service.settings import Settings
from service.supervisor import free_port

_START_S = 120.0
_CPUCLOCK_SCHED = 2  # Linux: clock of the process ~(id >> 3)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class ServiceRun:
    """The running service. processes: name -> process id; decode children are counted with the worker."""

    settings: Settings
    url: str
    data_dir: Path
    processes: dict[str, int]

    def resident_bytes(self, name: str) -> int:
        """Resident memory of a process and its children."""
        return sum(_resident(pid) for pid in _family(self.processes[name]))

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds so far of each process alone; `decode`: of the worker's living children."""
        used = {name: _cpu_s(pid) for name, pid in self.processes.items()}
        return {**used, "decode": sum(_cpu_s(pid) for pid in _family(self.processes["worker"])[1:])}

    def disk_bytes(self) -> int:
        """Bytes of all session files."""
        return sum(path.stat().st_size for path in (self.data_dir / "sessions").rglob("*") if path.is_file())


@contextmanager
def running_service(*, engines: tuple[str, ...], **changes: Any) -> Iterator[ServiceRun]:
    """Start all three, wait until a worker is ready, stop all at the end."""
    with tempfile.TemporaryDirectory(prefix="maskstream-bench-") as folder:
        root = Path(folder)
        with EmbeddedRedis(root / "redis") as redis:
            values = {"data_dir": root / "data", "port": free_port(), "min_free_bytes": 0, **changes}
            settings = Settings(redis_url=redis.url, engines=engines, rate_limit_burst=100_000, **values)
            environment = {**os.environ, **settings.environment(), "MASKSTREAM_LOG_LEVEL": "WARNING"}
            started = {
                "api": subprocess.Popen([sys.executable, "-m", "service.cli", "api"], env=environment),
                "worker": subprocess.Popen([sys.executable, "-m", "service.worker"], env=environment),
            }
            try:
                url = f"http://127.0.0.1:{settings.port}"
                _wait_ready(url)
                processes = {name: process.pid for name, process in started.items()}
                yield ServiceRun(settings, url, root / "data", {**processes, "redis": redis.pid or 0})
            finally:
                for process in started.values():
                    process.terminate()
                for process in started.values():
                    process.wait(60)


def _wait_ready(url: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - our own address
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _family(int(child))
    return found


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return ["0"] * 50


def _resident(pid: int) -> int:
    return int(_stat(pid)[21]) * _PAGE_BYTES


def _cpu_s(pid: int) -> float:
    """By the process's own clock, which counts nanoseconds where /proc counts ticks."""
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError:
        return 0.0  # it has ended
