"""The page's own codecs against pycocotools and Pillow, in a real browser."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

pytestmark = pytest.mark.browser

WEB = Path(__file__).parents[2] / "service" / "api" / "web"
ORIGIN = "http://page.test"


@pytest.fixture(scope="module")
def page(chromium: Any) -> Iterator[Any]:
    """A browser page that can import the modules; nothing listens on a port."""
    from playwright.sync_api import Route

    def serve(route: Route) -> None:
        name = route.request.url.removeprefix(ORIGIN).lstrip("/")
        if not name:
            route.fulfill(content_type="text/html", body="<!doctype html><title>modules</title>")
        else:
            route.fulfill(content_type="text/javascript", body=(WEB / name).read_text(encoding="utf-8"))

    opened = chromium.new_page()
    opened.route(f"{ORIGIN}/**", serve)
    opened.goto(ORIGIN)
    yield opened
    opened.close()


def random_mask(seed: int, height: int, width: int) -> np.ndarray:
    """Blocks, so that runs are long, plus single pixels."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.random((height // 8 + 1, width // 8 + 1)) > 0.5, np.ones((8, 8), bool))[:height, :width]
    return np.asarray(blocks ^ (rng.random((height, width)) > 0.98))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (61, 97), (270, 480)])
def test_run_lengths_become_the_same_pixels(page: Any, height: int, width: int) -> None:
    mask = random_mask(height, height, width)
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    script = """async ([height, width, counts]) => {
        const {paintRle} = await import("/js/rle.js");
        const out = new Uint8Array(height * width);
        paintRle({size: [height, width], counts}, 7, out);
        return Array.from(out);
    }"""
    painted = page.evaluate(script, [height, width, rle["counts"].decode()])
    assert np.array_equal(np.array(painted).reshape(height, width), mask * 7)


def test_label_map_png_keeps_the_ids(page: Any) -> None:
    labels = (np.arange(33 * 21) % 255).astype(np.uint8).reshape(21, 33)
    script = """async ([labels, width, height]) => {
        const {labelMapToPng} = await import("/js/png.js");
        const blob = await labelMapToPng(Uint8Array.from(labels), width, height);
        return Array.from(new Uint8Array(await blob.arrayBuffer()));
    }"""
    data = bytes(page.evaluate(script, [labels.ravel().tolist(), 33, 21]))
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), labels)


def test_colours_match_the_downloaded_pngs(page: Any) -> None:
    from service.masks import palette

    script = """async () => {
        const {colourOf} = await import("/js/palette.js");
        return Array.from({length: 255}, (_, id) => colourOf(id));
    }"""
    assert [value for colour in page.evaluate(script) for value in colour] == palette()[: 255 * 3]
