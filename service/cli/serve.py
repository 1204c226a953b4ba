"""`maskstream serve`, `api` and `worker`: the processes of the service."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from service.settings import Settings

Host = Annotated[str | None, typer.Option("--host", help="Address to bind [MASKSTREAM_HOST, 127.0.0.1].")]
Port = Annotated[int | None, typer.Option("--port", help="Port to bind [MASKSTREAM_PORT, 8000].")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", file_okay=False, help="Folder for everything [MASKSTREAM_DATA_DIR].")
]
Engines = Annotated[list[str] | None, typer.Option("--engine", help="Engine to serve; repeat it. Default: all.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, all [MASKSTREAM_DEVICE].")]


def register(app: typer.Typer) -> None:
    """Add the commands that run the service."""
    app.command()(serve)
    app.command()(api)
    app.command()(worker)


def serve(
    host: Host = None, port: Port = None, data_dir: DataDir = None, engine: Engines = None, device: Device = None
) -> None:
    """Run everything on this machine: Redis (unless MASKSTREAM_REDIS_URL is set), a worker and the API."""
    from service.api.serving import listen
    from service.logs import configure_logs
    from service.startup import check_settings

    settings = read_settings(host=host, port=port, data_dir=data_dir, engines=engine and tuple(engine), device=device)
    check_settings(settings)
    configure_logs(settings, component="serve")
    _require_torch()
    listen(settings).close()  # a taken port is said before anything has started
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if settings.redis_url is not None:
        sys.exit(_supervise(settings))
    from service.embedded import EmbeddedRedis

    with EmbeddedRedis(settings.data_dir / "redis") as redis:
        code = _supervise(settings.model_copy(update={"redis_url": redis.url}), redis.keep_running)
    sys.exit(code)


def api(host: Host = None, port: Port = None, data_dir: DataDir = None) -> None:
    """Run the API alone; needs MASKSTREAM_REDIS_URL, and the data folder or bucket of the workers."""
    from service.api.serving import run_api
    from service.logs import configure_logs, warn_of_mistyped

    settings = read_settings(host=host, port=port, data_dir=data_dir)
    configure_logs(settings, component="api")
    warn_of_mistyped(os.environ)
    run_api(settings)


def worker(
    data_dir: DataDir = None,
    engine: Engines = None,
    device: Device = None,
    burst: Annotated[bool, typer.Option("--burst", help="Stop when no session waits.")] = False,
) -> None:
    """Run a worker, or one on each device (`--device all`); needs MASKSTREAM_REDIS_URL, and a data folder or bucket."""
    from service.logs import configure_logs, warn_of_mistyped

    settings = read_settings(data_dir=data_dir, engines=engine and tuple(engine), device=device)
    configure_logs(settings, component="worker")
    warn_of_mistyped(os.environ)
    _require_torch()
    if settings.device == "all":
        sys.exit(_worker_per_device(settings))
    from service.worker.__main__ import run_worker

    run_worker(settings, burst=burst)


def read_settings(**given: Any) -> Settings:
    """The environment's settings, under those given on the command line."""
    from pydantic import ValidationError

    from service.errors import InvalidInput
    from service.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        item = error.errors()[0]
        name = "_".join(str(part) for part in item["loc"]).upper()
        raise InvalidInput(f"MASKSTREAM_{name}: {item['msg']}") from error


def _require_torch() -> None:
    from importlib.util import find_spec

    from service.errors import Unavailable

    if find_spec("torch") is None:
        raise Unavailable("a worker needs torch: pip install 'maskstream[worker]' (the API alone: `maskstream api`)")


def _supervise(settings: Settings, look_after: Callable[[], None] | None = None) -> int:
    from service.supervisor import Supervisor

    supervisor = Supervisor(settings.environment(), settings.drain_timeout_s + 5, look_after)
    supervisor.add("worker", [sys.executable, "-m", "service.cli", "worker"])
    supervisor.add("api", [sys.executable, "-m", "service.cli", "api"])
    typer.echo(
        f"maskstream on http://{settings.host}:{settings.port} (data in {settings.data_dir.resolve()})", err=True
    )
    return supervisor.run()


def _worker_per_device(settings: Settings) -> int:
    import torch

    from service.errors import Unavailable
    from service.supervisor import Supervisor

    count = torch.cuda.device_count()
    if count == 0:
        raise Unavailable("no CUDA device is visible: give the container its GPUs, or set MASKSTREAM_DEVICE=cpu")
    supervisor = Supervisor(settings.environment(), settings.drain_timeout_s + 5)
    for name, command, environment in worker_commands(count, settings.worker_metrics_port):
        supervisor.add(name, command, environment)
    return supervisor.run()


def worker_commands(devices: int, metrics_port: int | None) -> list[tuple[str, list[str], dict[str, str]]]:
    """(name, command, environment) of one worker for each CUDA device; metrics ports count up from the first."""
    found = []
    for index in range(devices):
        environment = {"MASKSTREAM_DEVICE": f"cuda:{index}"}
        if metrics_port is not None:
            environment["MASKSTREAM_WORKER_METRICS_PORT"] = str(metrics_port + index)
        found.append((f"worker-{index}", [sys.executable, "-m", "service.cli", "worker"], environment))
    return found
