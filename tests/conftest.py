"""Skips for what a machine may lack, and for nothing else: a CUDA device, Chromium, a container engine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str | None:
    """Where Chromium is, if it is here."""
    return next((path for path in map(shutil.which, CHROMIUM) if path), None)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_docker() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=20).returncode == 0


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server on a Unix socket, one for the whole run; each test takes a key prefix of its own."""
    from service.embedded import EmbeddedRedis

    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


_NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "gpu": (_has_gpu, "no CUDA device"),
    "browser": (lambda: chromium_path() is not None, "no Chromium (apt install chromium)"),
    "docker": (_has_docker, "no container engine that answers"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip marked tests whose need is not met; each need is looked up once, and only if a test has it."""
    for marker, (met, reason) in _NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not met():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))
