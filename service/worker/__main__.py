"""`python -m service.worker`: one worker process on one device. Settings come from the environment."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

import structlog
import torch
from prometheus_client import start_http_server

from engines.errors import EngineError
from service.errors import MaskstreamError
from service.settings import Settings
from service.startup import open_storage
from service.worker.allocator import keep_freed_memory
from service.worker.loop import Worker


def run_worker(settings: Settings, *, burst: bool = False) -> None:
    """Work until SIGTERM or SIGINT; burst: until no session waits. Raises Unavailable."""
    keep_freed_memory()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    worker = Worker(settings, open_storage(settings))

    def stop(number: int, frame: FrameType | None) -> None:
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if settings.worker_metrics_port is not None:
        start_http_server(settings.worker_metrics_port)
    worker.run(burst=burst)


def main() -> int:
    """Entry point; 2 when the worker cannot start."""
    parser = argparse.ArgumentParser(prog="python -m service.worker", description=__doc__)
    parser.add_argument("--burst", action="store_true", help="stop when no session waits")
    arguments = parser.parse_args()
    try:
        run_worker(Settings(), burst=arguments.burst)
    except (MaskstreamError, EngineError) as error:
        structlog.get_logger().error("worker cannot run", error=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
