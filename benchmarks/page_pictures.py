"""Pictures of docs/web-page.md: the page while marking, streaming and finished, with the sample clip.

python -m benchmarks.page_pictures docs/images            (with a service running: make run)
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from tests.browser.hand import drag

QUALITY = 80
HALF_WAY = 24
"""Frame, counted from 1, at which the stream is pictured."""
WAIT_MS = 240_000


def main(folder: Path, url: str) -> None:
    """Go through the page once, and take a picture of each state."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport={"width": 1180, "height": 760}, device_scale_factor=1.5)
        page.set_default_timeout(WAIT_MS)
        page.goto(url)
        mark(page)
        save(page, folder / "page-marking.webp")
        page.click("#segment")
        page.wait_for_function("n => parseInt(document.getElementById('frame-number').textContent) >= n", arg=HALF_WAY)
        save(page, folder / "page-streaming.webp")
        page.locator("#session-state").get_by_text("Completed").wait_for()
        page.locator("#suggestions button").last.click()
        page.wait_for_timeout(800)
        save(page, folder / "page-finished.webp")
        browser.close()


def mark(page: Any) -> None:
    """The sample clip with its painted fish, and a box around the second one instead."""
    page.click("#try-sample")
    page.get_by_text("press Segment").wait_for()
    page.keyboard.press("2")
    page.keyboard.press("r")
    drag(page, (0.7, 0.24), (0.935, 0.52))
    page.keyboard.press("b")
    page.wait_for_timeout(300)


def save(page: Any, path: Path) -> None:
    """The window as WebP, which needs a third of a PNG's bytes."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, quality=QUALITY, method=6)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.url)
