"""A person's way through the page, in a real Chromium, against a real API and worker."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.demo_clip import FPS, render
from service.settings import Settings
from service.video_file import VideoWriter
from tests.conftest import chromium_path
from tests.e2e.browser import BROWSER_ARGS
from tests.service.api_server import ApiServer, running_api

pytestmark = pytest.mark.browser

FRAMES = 40


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "fish.mp4"
    with VideoWriter(path, FPS) as writer:
        for frame in render(FRAMES, 180, 320):
            writer.write(frame.image)
    return path


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix="test-page:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
        default_engine="fake",
    )
    environment = {
        **os.environ,
        "MASKSTREAM_REDIS_URL": redis_url,
        "MASKSTREAM_REDIS_PREFIX": settings.redis_prefix,
        "MASKSTREAM_DATA_DIR": str(settings.data_dir),
        "MASKSTREAM_ENGINES": "fake",
    }
    with running_api(settings) as server:
        worker = subprocess.Popen([sys.executable, "-m", "service.worker"], env=environment)
        try:
            yield server
        finally:
            worker.terminate()
            worker.wait(30)


@pytest.fixture
def page(api: ApiServer) -> Iterator[Any]:
    """The page, freshly opened; any complaint of the browser fails the test."""
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []

    def listen(message: Any) -> None:
        # Chromium itself reports every refused request; what the page makes of it is what the tests look at.
        refused = message.text.startswith("Failed to load resource: the server responded with a status of 4")
        if message.type == "error" and not refused:
            complaints.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=BROWSER_ARGS)
        opened = browser.new_page(viewport={"width": 1280, "height": 860})
        opened.set_default_timeout(60_000)
        opened.on("console", listen)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto(f"http://127.0.0.1:{api.port}/")
        yield opened
        browser.close()
    assert complaints == []


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw over the picture, in shares of its size."""
    box = page.locator("#marks").bounding_box()
    page.mouse.move(box["x"] + box["width"] * start[0], box["y"] + box["height"] * start[1])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end[0], box["y"] + box["height"] * end[1], steps=4)
    page.mouse.up()


def upload_and_draw(page: Any, clip: Path) -> None:
    page.locator("#engine option[value=fake]").wait_for(state="attached")
    page.set_input_files("#file", str(clip))
    page.get_by_text("Paint the object").wait_for()
    drag(page, (0.15, 0.4), (0.3, 0.5))


def wait_for_end(page: Any) -> None:
    page.get_by_text("completed").first.wait_for()


def masks_seen(page: Any) -> bool:
    """Whether any pixel of the mask layer is painted."""
    return bool(
        page.evaluate("""() => {
            const canvas = document.getElementById("masks");
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return data.some((value, at) => at % 4 === 3 && value > 0);
        }""")
    )


def test_upload_draw_stream_reload_download(page: Any, clip: Path, tmp_path: Path) -> None:
    upload_and_draw(page, clip)
    page.click("#start")
    page.wait_for_url("**/#/s/*")
    page.reload()
    wait_for_end(page)
    assert page.inner_text("#progress-note") == f"{FRAMES} frames · completed"
    assert masks_seen(page)
    page.locator("#scrub").fill("3")
    page.get_by_text(f"4 / {FRAMES}").wait_for()
    with page.expect_download() as started:
        page.click("[data-format=png]")
    saved = tmp_path / "masks.zip"
    started.value.save_as(saved)
    with zipfile.ZipFile(saved) as archive:
        assert len(archive.namelist()) == FRAMES


def test_a_refusal_is_shown_in_the_servers_words(page: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video" * 100)
    page.locator("#engine option[value=fake]").wait_for(state="attached")
    page.set_input_files("#file", str(broken))
    page.get_by_text("cannot show the file").wait_for(timeout=30_000)
    page.click("#find")
    page.locator("#problem").wait_for(state="visible")
    assert page.inner_text("#problem-title")
    assert "video" in page.inner_text("#problem-detail").lower()


def test_the_keyboard_marks_and_chooses(page: Any, clip: Path) -> None:
    page.locator("#engine option[value=fake]").wait_for(state="attached")
    page.set_input_files("#file", str(clip))
    page.get_by_text("Paint the object").wait_for()
    page.locator("#marks").focus()
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.click("#start")
    page.wait_for_url("**/#/s/*")
