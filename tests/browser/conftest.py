"""A service with a worker, and the page in a real Chromium whose every complaint fails the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.demo_clip import FPS, render
from service.settings import Settings
from service.video_file import VideoWriter
from tests.browser.browser import BROWSER_ARGS
from tests.conftest import chromium_path
from tests.service.api_server import ApiServer, running_api, running_worker

FRAMES = 24
LONG_FRAMES = 120
STEP_S = 0.06
"""What the worker takes for a frame: slow enough to come in the middle, fast enough to wait for."""


def write_clip(path: Path, frames: int) -> Path:
    """A small video; a long one goes to and fro."""
    images = [frame.image for frame in render(FRAMES, 180, 320)]
    with VideoWriter(path, FPS) as writer:
        for index in range(frames):
            turn = index % (2 * FRAMES - 2)
            writer.write(images[min(turn, 2 * FRAMES - 2 - turn)])
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that is soon through."""
    return write_clip(tmp_path_factory.mktemp("clip") / "fish.mp4", FRAMES)


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of which the middle can be met."""
    return write_clip(tmp_path_factory.mktemp("long") / "school.mp4", LONG_FRAMES)


@pytest.fixture(scope="session")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The API in a thread and one worker as a process, both of the engine `fake`."""
    settings = Settings(
        redis_url=redis_url,
        redis_prefix="test-page:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
        default_engine="fake",
    )
    of_worker = settings.model_copy(update={"engines": ("fake",), "fake_step_s": STEP_S})
    with running_api(settings) as server, running_worker(of_worker):
        yield server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for a file's tests: Playwright's event loop in this thread must be over when other tests want one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=BROWSER_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def desktop(chromium: Any) -> Iterator[Any]:
    """One profile for a file's tests on a desktop: the page's files are fetched once."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860}, permissions=["camera"])
    yield context
    context.close()


@pytest.fixture
def open_page(desktop: Any, api: ApiServer) -> Iterator[Callable[..., Any]]:
    """Opens the page in a new tab, of another context if one is given."""
    complaints: list[str] = []
    tabs: list[Any] = []

    def listen(message: Any) -> None:
        # Chromium itself reports every refused request; what the page makes of it is what the tests look at.
        refused = message.text.startswith("Failed to load resource: the server responded with a status of 4")
        ours = message.text.startswith("Canvas2D: Multiple readback")  # the tests read pixels, the page does not
        if message.type in ("error", "warning") and not refused and not ours:
            complaints.append(message.text)

    def open_one(context: Any = desktop) -> Any:
        tab = context.new_page()
        tabs.append(tab)
        tab.set_default_timeout(30_000)
        tab.on("console", listen)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: dialog.accept())
        tab.goto(f"http://127.0.0.1:{api.port}/")
        tab.locator("#engine option[value=fake]").wait_for(state="attached")
        return tab

    yield open_one
    for tab in tabs:
        tab.close()
    assert complaints == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    """The page on a desktop."""
    return open_page()
