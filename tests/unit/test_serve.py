"""Processes that the commands start."""

from __future__ import annotations

import sys
from pathlib import Path

from service.cli.serve import worker_commands
from service.supervisor import Supervisor


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
