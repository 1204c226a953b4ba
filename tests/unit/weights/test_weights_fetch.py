"""Fetching weights from a real local HTTP server: resume, wrong hash, web page, full disk, no network."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open

from engines.aot.config import VARIANTS
from engines.aot.model import AotNet
from engines.catalog import CATALOG
from engines.checkpoint import load_checkpoint
from engines.uniref.weights import vocabulary_beside
from service.errors import InvalidInput, NotFound, StorageFull, Unavailable
from service.weights import download as download_module
from service.weights.cache import WeightsCache
from service.weights.download import Wanted, download
from service.weights.published import PUBLISHED, PublishedWeights, published

BODY = bytes(range(256)) * 4096


class Server(BaseHTTPRequestHandler):
    """Serves `body` with ranges; breaks the connection after `break_after` bytes, `breaks` times."""

    body: ClassVar[bytes] = BODY
    content_type: ClassVar[str] = "application/octet-stream"
    break_after: ClassVar[int] = 0
    breaks: ClassVar[int] = 0
    ranges: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        kind = type(self)
        kind.ranges.append(self.headers.get("Range"))
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if start >= len(kind.body) > 0:
            self.send_error(416)
            return
        rest = kind.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind.content_type)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if kind.breaks > 0:
            kind.breaks -= 1
            self.wfile.write(rest[: kind.break_after])
            self.close_connection = True
        else:
            self.wfile.write(rest)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    handler = type("Handler", (Server,), {"ranges": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/w.pth", handler
    http.shutdown()
    http.server_close()
    thread.join()


def _wanted(url: str, folder: Path, **facts: Any) -> Wanted:
    return Wanted(url, folder / "w.pth", pause_s=0.0, **facts)


def test_a_whole_file_arrives_with_progress(server: tuple[str, type[Server]], tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    digest = download(_wanted(server[0], tmp_path), lambda done, total: seen.append((done, total)))
    assert (tmp_path / "w.pth").read_bytes() == BODY
    assert digest == hashlib.sha256(BODY).hexdigest()
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_broken_transfer_goes_on_where_it_broke(server: tuple[str, type[Server]], tmp_path: Path) -> None:
    url, handler = server
    handler.breaks, handler.break_after = 2, 300_000
    download(_wanted(url, tmp_path, sha256=hashlib.sha256(BODY).hexdigest(), size_bytes=len(BODY)))
    assert (tmp_path / "w.pth").read_bytes() == BODY
    assert len(handler.ranges) == 3
    assert handler.ranges[0] is None
    assert all(value is not None for value in handler.ranges[1:])


def test_what_arrived_is_kept_for_the_next_run(server: tuple[str, type[Server]], tmp_path: Path) -> None:
    url, handler = server
    handler.breaks, handler.break_after = 100, 100_000
    with pytest.raises(Unavailable, match="run the command again"):
        download(_wanted(url, tmp_path))
    assert not (tmp_path / "w.pth").exists()
    assert (tmp_path / "w.pth.part").stat().st_size > 0
    handler.breaks = 0
    download(_wanted(url, tmp_path))
    assert (tmp_path / "w.pth").read_bytes() == BODY


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"size_bytes": 5}])
def test_a_wrong_file_is_deleted(server: tuple[str, type[Server]], tmp_path: Path, facts: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="deleted"):
        download(_wanted(server[0], tmp_path, **facts))
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_instead_of_a_file_says_what_to_do(server: tuple[str, type[Server]], tmp_path: Path) -> None:
    server[1].content_type = "text/html; charset=utf-8"
    with pytest.raises(Unavailable, match="web page.*--from FILE"):
        download(_wanted(server[0], tmp_path))


def test_too_little_room_is_told_before_the_first_byte(
    server: tuple[str, type[Server]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(StorageFull, match="make room"):
        download(_wanted(server[0], tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_midway_is_told(server: tuple[str, type[Server]], tmp_path: Path) -> None:
    (tmp_path / "w.pth.part").symlink_to("/dev/full")
    with pytest.raises(StorageFull, match="full after"):
        download(_wanted(server[0], tmp_path))


def test_no_server_is_an_error_that_names_the_address(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9/w\.pth"):
        download(_wanted("http://127.0.0.1:9/w.pth", tmp_path))


def _published_file(folder: Path) -> Path:
    path = folder / "DeAOTT.pth"
    tensors = {f"module.{key}": value for key, value in AotNet(VARIANTS["deaot-t"]).state_dict().items()}
    torch.save({"state_dict": tensors, "epoch": 100}, path)
    return path


def _entry(url: str | None, **changes: Any) -> PublishedWeights:
    facts: dict[str, Any] = {
        "engine": "deaot-t",
        "page": "https://example.org",
        "licence": "BSD-3-Clause",
        "score": "-",
        "url": url,
    }
    return PublishedWeights("deaot-t", file_name="deaot-t.pth", **(facts | changes))


def test_fetched_weights_are_converted_recorded_and_loadable(server: tuple[str, type[Server]], tmp_path: Path) -> None:
    file = _published_file(tmp_path)
    server[1].body = file.read_bytes()
    cache = WeightsCache(tmp_path / "cache")
    stored = cache.fetch(_entry(server[0]))
    assert stored.path == tmp_path / "cache" / "deaot-t.safetensors"
    assert sorted(p.name for p in cache.folder.iterdir()) == ["checksums.json", "deaot-t.safetensors"]
    assert cache.recorded_sha256(_entry(None)) == hashlib.sha256(file.read_bytes()).hexdigest()
    with safe_open(stored.path, framework="pt") as opened:
        assert opened.metadata()["published_sha256"] == stored.published_sha256
    theirs, ours = load_checkpoint(file, "deaot-t").tensors, load_checkpoint(stored.path, "deaot-t").tensors
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_file_at_hand_needs_no_network_and_must_stay_the_same(tmp_path: Path) -> None:
    file = _published_file(tmp_path)
    cache = WeightsCache(tmp_path / "cache")
    cache.fetch(_entry(None), local_file=file)
    torch.save(torch.load(file, weights_only=True) | {"epoch": 101}, file)
    with pytest.raises(InvalidInput, match="--accept-new"):
        cache.fetch(_entry(None), local_file=file)
    assert (tmp_path / "cache" / "deaot-t.safetensors").is_file()
    cache.fetch(_entry(None), local_file=file, accept_new=True)
    with pytest.raises(NotFound):
        cache.fetch(_entry(None), local_file=tmp_path / "none.pth")
    with pytest.raises(Unavailable, match="no direct address"):
        cache.fetch(_entry(None))


def test_a_checkpoint_of_another_engine_is_not_kept(tmp_path: Path) -> None:
    file = _published_file(tmp_path)
    cache = WeightsCache(tmp_path / "cache")
    with pytest.raises(InvalidInput, match="It looks like deaot-t"):
        cache.fetch(_entry(None, engine="deaot-s"), local_file=file)
    assert list(cache.folder.iterdir()) == []


def test_the_table_names_only_engines_that_exist_and_each_once() -> None:
    assert len({entry.name for entry in PUBLISHED}) == len(PUBLISHED)
    assert {entry.engine for entry in PUBLISHED} <= set(CATALOG)
    with pytest.raises(NotFound, match="there are: deaot-t"):
        published("nonesuch")


def test_a_text_engine_asks_for_its_vocabulary(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path / "cache")
    needed = cache.missing(published("uniref"))
    assert [entry.name for entry in needed] == ["bert-vocabulary"]
    words = tmp_path / "words.txt"
    words.write_text("[PAD]\n[UNK]\n")
    stored = cache.fetch(needed[0], local_file=words)
    assert stored.path == vocabulary_beside(cache.path_of(published("uniref")))
    assert cache.missing(published("uniref")) == []
