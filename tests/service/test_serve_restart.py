"""`maskstream serve` stopped, and killed, in the middle of a session: its own Redis and its data folder carry it on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from service.supervisor import free_port
from tests.service.scene import reference_png
from tests.service.videos import write_video

_FRAMES = 40
_STEP_S = 0.05
_PATIENCE_S = 90.0


class Serve:
    """One run of the command."""

    def __init__(self, data_dir: Path) -> None:
        self.port = free_port()
        self._log = (data_dir.parent / f"serve-{self.port}.log").open("wb")
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(self.port), "--data-dir", str(data_dir)]
        changes: dict[str, object] = {
            "FAKE_STEP_S": _STEP_S,
            "MIN_FREE_BYTES": 0,
            "SNAPSHOT_INTERVAL_S": 0.1,
            "SNAPSHOT_SHARE": 0.5,
        }
        changes |= {"ARCHIVE_EVERY": 8, "DEVICE": "cpu", "THREADS": 1, "ENGINES": "fake"}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MASKSTREAM_")}
        environment |= {f"MASKSTREAM_{name}": str(value) for name, value in changes.items()}
        self._process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30.0)

    def until_up(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, Path(self._log.name).read_text()
            try:
                if self.http.get("/healthz").status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.05)
        raise AssertionError(Path(self._log.name).read_text())

    def masks(self, session_id: str, after: int, count: int | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(masks above `after`, at most `count`; the end message, empty if it was not waited for)."""
        found: list[dict[str, Any]] = []
        url = f"ws://127.0.0.1:{self.port}/sessions/{session_id}/stream?after={after}"
        with connect(url, compression=None) as stream:
            while count is None or len(found) < count:
                try:
                    message = json.loads(stream.recv(_PATIENCE_S))
                except ConnectionClosed as closed:
                    raise AssertionError(f"the stream broke off after {len(found)} masks") from closed
                if message["type"] == "mask":
                    found.append(message)
                elif message["type"] == "end":
                    return found, message
        return found, {}

    def stop(self) -> None:
        """SIGTERM, as an operator or a reboot does it."""
        self._process.terminate()
        assert self._process.wait(60) == 0

    def kill(self) -> None:
        """SIGKILL for the command and all that it started, Redis included, as a power cut does it."""
        for pid in family(self._process.pid):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self.http.close()
        if self._process.poll() is None:
            self.kill()
        self._log.close()


def family(pid: int) -> list[int]:
    """A process and all that descend from it, those in sessions of their own included. Linux only, as /proc is."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


@contextmanager
def serving(data_dir: Path) -> Iterator[Serve]:
    serve = Serve(data_dir)
    try:
        serve.until_up()
        yield serve
    finally:
        serve.close()


def upload(serve: Serve, video: Path) -> str:
    files = [("video", ("clip.mp4", video.read_bytes())), ("mask", ("mask.png", reference_png()))]
    answer = serve.http.post("/sessions", files=files, data={"engine": "fake"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["session_id"])


def test_a_session_survives_a_stop_and_a_power_cut_of_serve(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", _FRAMES, size=(48, 64))
    data_dir = tmp_path / "data"
    with serving(data_dir) as serve:
        session_id = upload(serve, video)
        seen, _ = serve.masks(session_id, -1, 4)
        serve.stop()
    with serving(data_dir) as serve:
        before = serve.http.get(f"/sessions/{session_id}").json()
        assert before["state"] in ("queued", "running")
        assert 4 <= before["progress"]["frames_done"] < _FRAMES
        more, _ = serve.masks(session_id, seen[-1]["seq"], 12)
        seen += more
        serve.kill()
    with serving(data_dir) as serve:
        rest, end = serve.masks(session_id, seen[-1]["seq"], None)
        seen += rest
        again, _ = serve.masks(session_id, -1, None)
        stored = serve.http.get(f"/sessions/{session_id}/masks?format=rle")
        serve.stop()
    assert end["state"] == "completed" and end["frames"] == _FRAMES
    assert [mask["seq"] for mask in seen] == list(range(_FRAMES))
    assert [mask["frame_index"] for mask in seen] == list(range(_FRAMES))
    assert again == seen, "what is read again is what was read before"
    assert stored.status_code == 200
