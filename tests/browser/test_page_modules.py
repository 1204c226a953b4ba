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


def test_suggestions_are_the_doubtful_and_the_lost(page: Any) -> None:
    script = """async () => {
        const {MaskStore} = await import("/js/mask_store.js");
        const {suggest} = await import("/js/suggestions.js");
        const store = new MaskStore();
        for (let frame = 0; frame < 60; frame++) {
            const lost = frame >= 40;
            const doubt = frame === 20 ? 0.6 : frame === 22 ? 0.5 : frame === 2 ? 0.9 : 0.05;
            const first = {object_id: 1, score: 0.9, uncertainty: doubt};
            const second = {object_id: 2, score: lost ? 0 : 0.8, uncertainty: lost ? 1 : 0.05};
            store.add({seq: frame, frame_index: frame, size: [1, 1], objects: [first, second]});
        }
        return suggest(store, {reference: [2]}).map(({frameIndex, objectId, reason}) => [frameIndex, objectId, reason]);
    }"""
    assert page.evaluate(script) == [[20, 1, "unsure"], [40, 2, "lost"]]


def test_a_correction_names_only_what_was_touched(page: Any) -> None:
    script = """async () => {
        const {Marks} = await import("/js/marks.js");
        const {entriesOf} = await import("/js/references.js");
        const marks = new Marks();
        marks.setSize(8, 4);
        for (let id = 1; id < 4; id++) marks.addObject();
        marks.adopt(5, Uint8Array.from([1, 1, 1, 1, 2, 2, 2, 2, ...new Array(24).fill(0)]));
        marks.stroke(5, {x: 0, y: 3}, {x: 0, y: 3}, 0.5, 3);
        marks.stroke(5, {x: 7, y: 0}, {x: 7, y: 0}, 0.5, 0);
        const {entries, labelMap} = entriesOf(marks, 5);
        return [entries.map((entry) => [entry.object_id, entry.kind]), Array.from(labelMap.slice(0, 8)), labelMap[24]];
    }"""
    entries, first_row, painted = page.evaluate(script)
    assert sorted(entries) == [[2, "mask"], [3, "mask"]], "object 1 was there and was left alone"
    assert (first_row, painted) == ([0, 0, 0, 0, 2, 2, 2, 0], 3)


def test_one_mark_for_an_object_on_a_frame(page: Any) -> None:
    script = """async () => {
        const {Marks} = await import("/js/marks.js");
        const {entriesOf} = await import("/js/references.js");
        const marks = new Marks();
        marks.setSize(20, 10);
        marks.addObject();
        const described = ({kind, points}) => (points ? [kind, points.map((each) => each[2])] : [kind]);
        const kinds = () => entriesOf(marks, 0).entries.map(described);
        const seen = [];
        marks.stroke(0, {x: 3, y: 3}, {x: 9, y: 3}, 2, 1);
        seen.push(kinds());
        marks.setBox(0, 1, {x: 1, y: 1}, {x: 9, y: 9});
        seen.push(kinds());
        marks.remember(0);
        marks.addPoint(0, 1, {x: 4, y: 4}, true);
        marks.addPoint(0, 1, {x: 30, y: 4}, false);
        seen.push(kinds());
        marks.setText(0, 1, "red");
        seen.push(kinds());
        marks.undo();
        seen.push(kinds());
        return seen;
    }"""
    assert page.evaluate(script) == [[["mask"]], [["box"]], [["point", [1, 0]]], [["text"]], [["box"]]]


@pytest.mark.parametrize("indexed", [True, False])
def test_mask_files_keep_their_ids(page: Any, indexed: bool) -> None:
    from service.masks import encode_png

    labels = np.zeros((6, 9), np.uint8)
    labels[1, 2:5], labels[3, :], labels[5, 8] = 1, 7, 200
    script = """async (bytes) => {
        const {readLabelPng} = await import("/js/label_png.js");
        const {labelMap, width, height} = await readLabelPng(new File([Uint8Array.from(bytes)], "mask.png"));
        return [Array.from(labelMap), width, height];
    }"""
    read, width, height = page.evaluate(script, list(encode_png(labels, indexed=indexed)))
    assert (width, height) == (9, 6)
    assert np.array_equal(np.array(read).reshape(6, 9), labels)


def test_mask_files_that_mark_nothing_are_refused_and_a_second_one_replaces_the_first(page: Any) -> None:
    from service.masks import encode_png

    deep = io.BytesIO()
    Image.fromarray(np.full((6, 9), 300, np.uint16)).save(deep, "PNG")
    script = """async (files) => {
        const {readLabelPng} = await import("/js/label_png.js");
        const read = (bytes) => readLabelPng(new File([Uint8Array.from(bytes)], "x")).catch(({title}) => title);
        return Promise.all(files.map(read));
    }"""
    files = [list(data) for data in (b"no picture", deep.getvalue(), encode_png(np.zeros((6, 9), np.uint8)))]
    assert page.evaluate(script, files) == [
        "The mask is no PNG file",
        "The mask has 16 bits per pixel",
        "The mask holds no object",
    ]
    script = """async () => {
        const {Marks} = await import("/js/marks.js");
        const marks = new Marks();
        marks.size = {width: 3, height: 3};
        marks.setLabelMap(0, [1, 1, 3]);
        marks.setBox(0, 2, {x: 0, y: 0}, {x: 3, y: 3});
        marks.setLabelMap(0, [0, 2, 2]);
        return [1, 2, 3].map((id) => marks.marksOf(id).map(({kind}) => kind));
    }"""
    assert page.evaluate(script) == [[], ["mask"], []]


@pytest.mark.parametrize(("seconds", "words"), [(7.4, "7 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_spans_are_spelled_for_people(page: Any, seconds: float, words: str) -> None:
    assert page.evaluate("async (s) => (await import('/js/spelling.js')).spell(s)", seconds) == words


PLAYED = """async ([wishes, failing]) => {
    const {Player} = await import("/js/player.js");
    const video = document.createElement("video"), asked = [], shown = [];
    const still = new EventTarget();
    let failures = failing;
    Object.defineProperty(still, "src", {set: (address) => {
        asked.push(address);
        setTimeout(() => still.dispatchEvent(new Event(failures-- > 0 ? "error" : "load")));
    }});
    const player = new Player(video, still, (index) => shown.push(index), () => {});
    player.useStills = true;
    player.stillUrl = (index) => `still-${index}`;
    for (const wish of wishes) player.show(wish);
    const last = wishes.at(-1);
    for (let n = 0; shown.at(-1) !== last && n < 100; n++) await new Promise((done) => setTimeout(done, 50));
    return [asked, shown];
}"""


def test_a_picture_that_is_refused_is_asked_for_again(page: Any) -> None:
    assert page.evaluate(PLAYED, [[5], 0]) == [["still-5"], [5]]
    assert page.evaluate(PLAYED, [[5], 1]) == [["still-5", "still-5"], [5]]


def test_a_picture_that_never_comes_does_not_hold_the_page_up(page: Any) -> None:
    assert page.evaluate(PLAYED, [[5], 9]) == [["still-5", "still-5"], [5]]


def test_after_a_refusal_only_the_newest_wish_is_asked_for(page: Any) -> None:
    assert page.evaluate(PLAYED, [[5, 6, 7], 1]) == [["still-5", "still-7"], [7]]
