"""Processes that the commands start."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from engines.errors import DeviceUnavailable
from engines.registry import resolve_device
from service.cli.app import app
from service.cli.serve import worker_commands
from service.embedded import EmbeddedRedis
from service.errors import InvalidInput, Unavailable
from service.settings import Settings
from service.startup import check_settings
from service.supervisor import Supervisor
from service.worker.pool import EnginePool


def test_one_worker_for_each_device_with_a_metrics_port_of_its_own() -> None:
    found = worker_commands(2, 9100)
    assert [name for name, _, _ in found] == ["worker-0", "worker-1"]
    assert found[1][2] == {"MASKSTREAM_DEVICE": "cuda:1", "MASKSTREAM_WORKER_METRICS_PORT": "9101"}
    assert "MASKSTREAM_WORKER_METRICS_PORT" not in worker_commands(1, None)[0][2]


def test_a_child_gets_its_own_variables_and_one_that_cannot_start_ends_all(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = f"import os, sys; open({str(seen)!r}, 'a').write(os.environ['SHARED'] + os.environ['OWN']); sys.exit(7)"
    supervisor = Supervisor({"SHARED": "a", "OWN": "-"}, 1.0)
    supervisor.add("failing", [sys.executable, "-c", program], {"OWN": "b"})
    assert supervisor.run() == 7
    assert seen.read_text() == "ab" * 3


def test_a_ctrl_c_on_the_terminal_does_not_reach_the_embedded_redis(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as redis:
        assert redis.pid is not None and os.getpgid(redis.pid) != os.getpgid(0)


def test_an_engine_that_nobody_can_serve_is_refused_at_the_start(tmp_path: Path) -> None:
    check_settings(Settings(engines=("fake",), default_engine="deaot-t"))
    for settings in (Settings(engines=("nope",)), Settings(default_engine="spatial-embeddings")):
        with pytest.raises(InvalidInput, match=r"the settings name an engine .*; there are: deaot-t"):
            check_settings(settings)
    with pytest.raises(InvalidInput, match="MASKSTREAM_API_KEY has 5 characters; take at least 32"):
        check_settings(Settings(api_key=SecretStr("short")))
    said = CliRunner().invoke(app, ["serve", "--engine", "nope", "--data-dir", str(tmp_path)])
    assert isinstance(said.exception, InvalidInput)


def test_keys_of_a_service_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "mistyped"
    said = CliRunner().invoke(app, ["keys", "list", "--data-dir", str(nowhere)])
    assert f"there is no data folder {nowhere}" in str(said.exception) and not nowhere.exists()
    for url, reason in (("localhost:6379", "begins with redis://"), ("redis://127.0.0.1:1", "Redis cannot be reached")):
        monkeypatch.setenv("MASKSTREAM_REDIS_URL", url)
        said = CliRunner().invoke(app, ["keys", "list"])
        assert isinstance(said.exception, Unavailable) and reason in str(said.exception)


def test_a_worker_offers_what_it_has_weights_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKSTREAM_WEIGHTS_DIR", str(tmp_path))
    pool = EnginePool(Settings(), resolve_device("cpu"))
    assert "deaot-t" in pool.names and "r50-deaot-l" not in pool.names
    (tmp_path / "r50-deaot-l.safetensors").touch()
    assert "r50-deaot-l" in pool.names and "stm" not in pool.names
    assert EnginePool(Settings(engines=("fake",)), resolve_device("cpu")).names == ("fake",)


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.logs.configure_logs", lambda *_, **__: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = CliRunner().invoke(app, ["serve", "--port", port, "--data-dir", str(tmp_path / "new")])
    assert isinstance(said.exception, Unavailable) and f"cannot listen on 127.0.0.1 port {port}" in str(said.exception)
    assert not (tmp_path / "new").exists()


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceUnavailable, match="'warp' is no device"):
        resolve_device("warp")
    with pytest.raises(DeviceUnavailable, match="no CUDA device is visible|there is no cuda:99"):
        resolve_device("cuda:99")
