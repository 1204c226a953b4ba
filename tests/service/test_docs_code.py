"""Every code block of the README and the quick start, run as a reader would: against the server that they start.

The blocks' text is taken as it stands, but for the port 8000, which may be taken on a test machine. `make run` is the
server of this test; `make check` is these tests themselves and is only looked up; a block with `docker compose up`
needs a container engine, and there its files are read. A block of a kind that nothing here can run is a failure.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx2
import numpy as np
import pytest

from service.demo_clip import render
from service.masks import encode_png
from service.video_file import VideoWriter

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "quick-start.md")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SIZE = (160, 90)
_FRAMES = 4


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line where it begins, and the word after the fence."""

    page: Path
    line: int
    kind: str
    code: str

    @property
    def id(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = _BLOCK.finditer(text)
    return [Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def marked(block: Block) -> object:
    marks = [pytest.mark.docker] if "docker compose" in block.code else []
    return pytest.param(block, id=block.id, marks=marks)


@dataclass(frozen=True)
class Server:
    """The service that `make run` brought up, and the folder that its readers work in."""

    port: int
    folder: Path
    environment: dict[str, str]

    def fitted(self, code: str) -> str:
        return code.replace(":8000", f":{self.port}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, tools = tmp_path_factory.mktemp("reader"), tmp_path_factory.mktemp("tools")
    write_inputs(folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = reader_environment(tools, port, tmp_path_factory.mktemp("data"))
    log = tools / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(["make", "run"], cwd=ROOT, env=environment, stdout=out, stderr=out)
    try:
        wait_until_ready(port, process, log)
        yield Server(port, folder, environment)
    finally:
        end_with_children(process)


def reader_environment(tools: Path, port: int, data: Path) -> dict[str, str]:
    """An activated environment as `make run` would have made it: this interpreter, and the command `maskstream`."""
    command = tools / "maskstream"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m service.cli "$@"\n')
    command.chmod(0o755)
    (tools / ".installed").touch()  # what make looks for: newer than pyproject.toml, so nothing is installed
    return {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VENV": str(tools),
        "PYTHON": sys.executable,
        "MASKSTREAM_PORT": str(port),
        "MASKSTREAM_URL": f"http://127.0.0.1:{port}",
        "MASKSTREAM_DATA_DIR": str(data),
        "MASKSTREAM_MIN_FREE_BYTES": "0",
    }


def write_inputs(folder: Path) -> None:
    """clip.mp4 and 00000.png: the first frames of the demo clip, small."""
    clip = list(render(_FRAMES))
    with VideoWriter(folder / "clip.mp4", 24) as writer:
        for frame in clip:
            writer.write(np.asarray(cv2.resize(frame.image, _SIZE, interpolation=cv2.INTER_AREA), np.uint8))
    mask = cv2.resize(clip[0].label_map, _SIZE, interpolation=cv2.INTER_NEAREST)
    (folder / "00000.png").write_bytes(encode_png(np.asarray(mask, np.uint8)))


def wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the service did not start:\n{log.read_text(errors='replace')[-3000:]}")


def end_with_children(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, for make's child: make itself would only be told that its recipe failed."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    for pid in listed.stdout.split():
        os.kill(int(pid), signal.SIGTERM)
    process.wait(60)


def run(command: list[str], server: Server, cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed. Its standard input stays open, as a terminal's does."""
    with subprocess.Popen(
        command,
        cwd=cwd or server.folder,
        env=server.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        out, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0, f"{out}\n{errors}"
    return out


def run_shell(code: str, server: Server) -> str:
    return run(["bash", "-euo", "pipefail", "-c", server.fitted(code)], server)


def run_python(code: str, server: Server) -> str:
    return run([sys.executable, "-c", server.fitted(code)], server)


def run_make(code: str, server: Server) -> str:
    """`make run` has been run: it is the server. Of others, make itself says whether they could be."""
    targets = [line.split("#")[0].split()[1] for line in code.splitlines()]
    if "run" in targets:
        httpx2.get(f"http://127.0.0.1:{server.port}/").raise_for_status()
    return run(["make", "--dry-run", *targets], server, cwd=ROOT)


def run_docker(code: str, server: Server) -> str:
    """Read the files of each `docker compose … up`; building and running the images takes longer than tests may."""
    return "".join(
        run_shell(f"cd {ROOT}\nMASKSTREAM_API_KEY=key {line.split('#')[0].replace(' up', ' config -q')}", server)
        for line in code.splitlines()
        if line.startswith("docker compose")
    )


@pytest.mark.parametrize("block", [marked(block) for block in BLOCKS])
def test_the_block_does_what_the_page_says(block: Block, server: Server) -> None:
    if block.kind == "python":
        run_python(block.code, server)
    elif block.kind != "sh":
        pytest.fail(f"{block.id}: nothing here can run a {block.kind or 'nameless'!r} block")
    elif "docker compose" in block.code:
        run_docker(block.code, server)
    elif all(line.startswith("make ") for line in block.code.splitlines()):
        run_make(block.code, server)
    else:
        run_shell(block.code, server)


def test_what_the_blocks_leave_behind_is_what_the_pages_promise(server: Server) -> None:
    """Runs last: the blocks above have made these files."""
    for name, beginning in {"masks.zip": b"PK", "coco.json": b"{", "session.json": b'{"session_id"'}.items():
        assert (server.folder / name).read_bytes().startswith(beginning), name
    assert (server.folder / "overlay.mp4").stat().st_size > 500
    assert len(list((server.folder / "masks").glob("*.png"))) == _FRAMES
    listed = httpx2.get(f"http://127.0.0.1:{server.port}/sessions").json()["sessions"]
    assert len(listed) > 4
    assert [each["error"] for each in listed if each["state"] != "completed"] == []


def test_every_page_has_blocks_and_none_is_overlooked() -> None:
    for page in PAGES:
        fences = sum(line.startswith("```") for line in page.read_text(encoding="utf-8").splitlines())
        assert fences == 2 * len(blocks_of(page)) > 4
