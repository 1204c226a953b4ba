"""`serve` keeps its Redis alive as it keeps its other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import redis

_SERVE = """
import sys
from pathlib import Path
from service.embedded import EmbeddedRedis
from service.supervisor import Supervisor
with EmbeddedRedis(Path(sys.argv[1])) as server:
    supervisor = Supervisor({}, 5.0, look_after=server.keep_running)
    supervisor.add("child", ["sleep", "100"])
    print(server.pid, flush=True)
    sys.exit(supervisor.run())
"""


def test_a_killed_redis_comes_back_with_its_data(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    with subprocess.Popen([sys.executable, "-c", _SERVE, str(folder)], stdout=subprocess.PIPE, text=True) as serve:
        try:
            assert serve.stdout is not None
            pid = int(serve.stdout.readline())
            client = redis.Redis(unix_socket_path=str(folder / "redis.sock"))
            client.set("a", "1")
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    if client.get("a") == b"1" and client.info("server")["process_id"] != pid:
                        break
                except redis.exceptions.ConnectionError:
                    time.sleep(0.02)
            assert client.info("server")["process_id"] != pid
            assert client.get("a") == b"1"
            client.close()
        finally:
            serve.terminate()
        assert serve.wait(20) == 0
