"""Send every broken upload to a real API with a real worker behind it; nothing may break, and nothing may stay behind.

    python -m benchmarks.broken_uploads [--damage 16]

Fails (exit code 1) on any 5xx, a dead worker, a session that does not end, or a file that is left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx2

from service.embedded import EmbeddedRedis
from service.settings import Settings
from tests.service.api_server import ApiServer, running_api, running_worker
from tests.service.broken import Upload, all_uploads

_FINAL = ("completed", "failed", "cancelled")
_PATIENCE_S = 120.0


def send(api: ApiServer, upload: Upload) -> httpx2.Response:
    if upload.body is not None:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        return api.http.post("/sessions", content=upload.body, headers=headers)
    files = [("video", (upload.filename, upload.video)), ("mask", ("m.png", upload.mask))]
    return api.http.post("/sessions", files=files, data={"engine": "fake", **dict(upload.fields)})


def wait_for_end(api: ApiServer, session_id: str) -> str:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        state = str(api.http.get(f"/sessions/{session_id}").json()["state"])
        if state in _FINAL:
            return state
        time.sleep(0.1)
    return "stuck"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--damage", type=int, default=10, help="truncations and bit flips of each good file")
    damage = parser.parse_args().damage
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "redis") as redis:
        settings = Settings(
            redis_url=redis.url,
            data_dir=Path(folder) / "data",
            port=0,
            engines=("fake",),
            rate_limit_burst=100_000,
            max_sessions_per_key=1000,
        )
        with running_worker(settings) as worker, running_api(settings) as api:
            return run(api, worker, Path(folder), damage)


def run(api: ApiServer, worker: subprocess.Popen[bytes], folder: Path, damage: int) -> int:
    started, sent, bad = time.monotonic(), 0, []
    statuses: Counter[int] = Counter()
    accepted: dict[str, str] = {}
    for upload in all_uploads(folder, damage_per_file=damage):
        answer = send(api, upload)
        sent += 1
        statuses[answer.status_code] += 1
        if answer.status_code >= 500 or worker.poll() is not None:
            bad.append((upload.name, answer.status_code, answer.text[:200]))
        elif answer.status_code == 202:
            accepted[answer.json()["session_id"]] = upload.name
        elif answer.headers["content-type"] != "application/problem+json":
            bad.append((upload.name, answer.status_code, "no problem document"))
    states = {session_id: wait_for_end(api, session_id) for session_id in accepted}
    bad += [(accepted[key], 202, "stuck") for key, state in states.items() if state == "stuck"]
    for session_id in accepted:
        api.http.delete(f"/sessions/{session_id}")
    left = api.stored_files()
    print(f"{sent} uploads in {time.monotonic() - started:.0f} s; answers {dict(sorted(statuses.items()))}")
    print(f"accepted sessions ended as {dict(Counter(states.values()))}; worker alive: {worker.poll() is None}")
    print(f"files left: {left}; failures: {bad}")
    return 1 if bad or left or worker.poll() is not None else 0


if __name__ == "__main__":
    sys.exit(main())
