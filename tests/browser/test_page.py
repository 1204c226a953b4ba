"""A person's way through the page, in a real Chromium, against a real API and worker."""

from __future__ import annotations

import io
import json
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from service.demo_clip import render
from service.masks import encode_png
from tests.browser.conftest import FRAMES, LONG_FRAMES
from tests.browser.hand import choose, drag, painted, picture, show, start, wait_for_end, wait_for_mask
from tests.service.api_server import ApiServer

pytestmark = pytest.mark.browser


def fetch(api: ApiServer, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{api.port}/{path}", timeout=20) as answer:
        return bytes(answer.read())


def session_of(api: ApiServer, session_id: str) -> Any:
    return json.loads(fetch(api, f"sessions/{session_id}"))


def mask_of(api: ApiServer, session_id: str, frame: int) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(fetch(api, f"sessions/{session_id}/masks/{frame}.png"))) as image:
        return np.asarray(image)


def segment_two(page: Any, clip: Path) -> str:
    """Mark two objects of a clip and wait for all masks; the session's id."""
    choose(page, clip)
    drag(page, (0.15, 0.4), (0.3, 0.5))
    page.click("#add-object")
    drag(page, (0.75, 0.3), (0.85, 0.3))
    session_id = start(page)
    wait_for_end(page)
    return session_id


def test_a_reload_in_mid_stream_goes_on(page: Any, api: ApiServer, long_clip: Path) -> None:
    choose(page, long_clip)
    drag(page, (0.15, 0.4), (0.3, 0.5))
    page.fill("[data-field=name-1]", "clown")
    page.keyboard.press("Tab")
    page.click("#add-object")
    drag(page, (0.75, 0.3), (0.85, 0.3))
    session_id = start(page)

    wait_for_mask(page, 4)
    assert painted(page) > 0, "the overlay plays while it is made"
    page.get_by_text("per second").wait_for()
    assert f"of {LONG_FRAMES} frames" in page.inner_text("#progress-note")
    assert session_of(api, session_id)["state"] == "running", "the reload is in the middle"
    page.reload()
    wait_for_mask(page, 8)
    wait_for_end(page)
    assert page.inner_text("#progress-note") == f"{LONG_FRAMES} frames"
    assert [item["name"] for item in session_of(api, session_id)["objects"]] == ["clown", "Object 2"]
    page.locator("#suggestions button").first.click()
    chosen = page.locator("#suggestions button").first.inner_text().split(":")[0].removeprefix("Frame ")
    page.get_by_text(f"{chosen} / {LONG_FRAMES}").wait_for()


def test_a_correction_changes_the_later_frames(page: Any, api: ApiServer, clip: Path, tmp_path: Path) -> None:
    session_id = segment_two(page, clip)
    show(page, 15, FRAMES)
    before, later = picture(page), mask_of(api, session_id, 20)
    page.keyboard.press("1")
    drag(page, (0.4, 0.8), (0.6, 0.8))
    assert page.inner_text("#correct") == "Correct frame 15"
    page.click("#correct")
    page.get_by_text("Made again from frame 15").wait_for()
    page.get_by_text(f"{FRAMES} frames, 10 of them made again").wait_for()
    show(page, 15, FRAMES)
    assert picture(page) != before
    corrected = mask_of(api, session_id, 14)
    assert corrected[int(0.8 * 180), 160] == 1, "the stroke belongs to object 1 now"
    assert not np.array_equal(mask_of(api, session_id, 20), later), "a later frame changed"
    references = session_of(api, session_id)["references"]
    assert [(item["frame_index"], item["object_ids"]) for item in references] == [(0, [1, 2]), (14, [1])]

    with page.expect_download() as started:
        page.click("[data-format=png]")
    saved = tmp_path / "masks.zip"
    started.value.save_as(saved)
    with zipfile.ZipFile(saved) as archive:
        assert len(archive.namelist()) == FRAMES


def test_every_kind_of_mark_becomes_its_reference(page: Any, api: ApiServer, clip: Path) -> None:
    choose(page, clip)
    page.keyboard.press("r")
    drag(page, (0.1, 0.4), (0.4, 0.7))
    page.keyboard.press("n")
    page.keyboard.press("p")
    drag(page, (0.8, 0.35), (0.8, 0.35))
    page.check("#outside")
    drag(page, (0.5, 0.1), (0.5, 0.1))
    page.keyboard.press("n")
    page.keyboard.press("t")
    page.keyboard.type("the green one")
    page.keyboard.press("Enter")
    assert page.locator(".chip-jump").all_inner_texts() == ["box · 1", "clicks · 1", "“the green one” · 1"]
    session_id = start(page)
    session = session_of(api, session_id)
    assert [(item["kind"], item["object_ids"]) for item in session["references"]] == [
        ("box", [1]),
        ("point", [2]),
        ("text", [3]),
    ]
    assert [item["color"] for item in session["objects"]] == ["#ff2626", "#26ff26", "#ffff26"]
    wait_for_mask(page, 2)
    assert painted(page) > 0


def test_undo_eraser_and_mask_file(page: Any, clip: Path, tmp_path: Path) -> None:
    choose(page, clip)
    drag(page, (0.2, 0.5), (0.4, 0.5))
    stroke = painted(page, "marks")
    page.keyboard.press("e")
    drag(page, (0.3, 0.4), (0.3, 0.6))
    page.locator("#undo:enabled").wait_for()
    assert painted(page, "marks") < stroke
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert page.locator(".chip").count() == 0
    page.keyboard.press("Control+Shift+z")
    assert page.locator(".chip-jump").all_inner_texts() == ["painted · 1"]

    labels = np.zeros((180, 320), np.uint8)
    labels[20:60, 30:90], labels[100:150, 200:260] = 3, 7
    mask = tmp_path / "mask.png"
    mask.write_bytes(encode_png(labels))
    page.set_input_files("#mask-file", str(mask))
    page.locator("[data-field=name-7]").wait_for()
    assert page.locator("#objects li").count() == 3, "objects 1, 3 and 7: the ids of the file are kept"
    mask.write_bytes(encode_png(labels[:100]))
    page.set_input_files("#mask-file", str(mask))
    page.get_by_text("another size than the video").wait_for()


def test_find_them_and_stop(page: Any, api: ApiServer, long_clip: Path) -> None:
    choose(page, long_clip)
    page.click("#find")
    page.wait_for_url("**/#/s/*")
    session_id = page.evaluate("location.hash.slice(4)")
    wait_for_mask(page, 3)
    page.click("#cancel")
    page.locator("#session-state").get_by_text("Stopped").wait_for()
    assert page.locator("#downloads").is_visible(), "what was made until then can be had"
    session = session_of(api, session_id)
    assert session["state"] == "cancelled" and session["progress"]["frames_done"] < LONG_FRAMES
    assert page.locator("#objects li").count() == len(session["objects"]) > 0


def test_images_in_a_zip_are_shown_by_the_server_once_they_are_there(page: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "shot.zip", "w") as archive:
        for index, frame in enumerate(render(3, 90, 160)):
            Image.fromarray(frame.image).save(tmp_path / "frame.png")
            archive.write(tmp_path / "frame.png", f"{index:04d}.png")
    (tmp_path / "mask.png").write_bytes(encode_png(next(iter(render(3, 90, 160))).label_map))
    page.set_input_files("#file", str(tmp_path / "shot.zip"))
    page.get_by_text("every frame is shown and can be corrected").wait_for()
    page.set_input_files("#mask-file", str(tmp_path / "mask.png"))
    start(page)
    wait_for_end(page)
    show(page, 2, 3)
    page.wait_for_function("() => document.querySelector('#still:not([hidden])')?.naturalWidth === 160")
    drag(page, (0.3, 0.3), (0.4, 0.4))
    page.get_by_role("button", name="Correct frame 2").wait_for()


def test_a_lost_connection_goes_on_where_it_was(page: Any, long_clip: Path) -> None:
    choose(page, long_clip)
    drag(page, (0.15, 0.4), (0.3, 0.5))
    sockets: list[Any] = []
    page.route_web_socket("**/stream*", lambda socket: sockets.append((socket, socket.connect_to_server())))
    start(page)
    wait_for_mask(page, 5)
    for half in sockets[0]:
        half.close(code=1012)
    wait_for_end(page)
    assert len(sockets) == 2 and "after=" in sockets[1][0].url, "it did not begin again"
    assert page.inner_text("#progress-note") == f"{LONG_FRAMES} frames"


def test_refusals_are_shown_in_the_servers_words(page: Any, tmp_path: Path, clip: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video" * 100)
    page.set_input_files("#file", str(broken))
    page.get_by_text("cannot show the file").wait_for()
    page.click("#find")
    page.locator("#problem").wait_for(state="visible")
    assert page.inner_text("#problem-title")
    assert "video" in page.inner_text("#problem-detail").lower()

    choose(page, clip)
    assert page.locator("#problem").is_hidden(), "an old problem is not shown for ever"
    page.click("#segment")
    page.get_by_text("Nothing is marked yet").wait_for()
    drag(page, (0.2, 0.4), (0.3, 0.5))
    page.route(
        "**/sessions", lambda route: route.fulfill(status=429, content_type="application/problem+json", body=BUSY)
    )
    page.click("#segment")
    page.get_by_text("Try again in 7 s.").wait_for()
    page.unroute("**/sessions")
    page.click("#problem-actions button")
    page.wait_for_url("**/#/s/*")
    page.evaluate("location.hash = '#/s/00000000000000000000000000'")
    page.get_by_text("Not found").wait_for()


BUSY = json.dumps(
    {
        "type": "urn:maskstream:problem:too-many-requests",
        "title": "Too many requests",
        "status": 429,
        "detail": "too many sessions wait already",
        "retry_after_s": 7,
    }
)


def test_the_keyboard_alone_marks_and_segments(page: Any, clip: Path) -> None:
    choose(page, clip)
    page.locator("#marks").focus()
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(".chip-jump").all_inner_texts() == ["box · 1"]
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.locator("#segment").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/s/*")


def test_a_phone_and_its_finger(open_page: Callable[..., Any], chromium: Any, clip: Path) -> None:
    phone = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = open_page(phone)
    choose(page, clip)
    box = page.locator("#marks").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    page.locator(".chip-jump").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    page.locator("#segment").scroll_into_view_if_needed()
    page.tap("#segment")
    page.wait_for_url("**/#/s/*")
    wait_for_mask(page, 3)
    assert page.locator("#marks").bounding_box()["width"] > 350
    phone.close()


def test_a_video_can_be_dropped(page: Any) -> None:
    page.evaluate("""async () => {
        const files = new DataTransfer();
        files.items.add(new File([await (await fetch("sample.mp4")).blob()], "dropped.mp4"));
        document.querySelector(".drop").dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true}));
    }""")
    page.get_by_text("here or on any other frame").wait_for()
    page.get_by_text("1 / 48").wait_for()


def test_sessions_have_pictures_and_can_be_deleted(page: Any, clip: Path) -> None:
    choose(page, clip)
    drag(page, (0.15, 0.4), (0.3, 0.5))
    session_id = start(page)
    page.get_by_role("link", name="Sessions").click()
    link = page.locator(f"#session-list a[href='#/s/{session_id}']")
    link.wait_for()
    page.wait_for_function("node => node.complete && node.naturalWidth > 0", arg=link.locator("img").element_handle())
    item = page.locator("#session-list li").filter(has=page.locator(f"a[href='#/s/{session_id}']"))
    item.get_by_role("button").click()
    link.wait_for(state="detached")


def test_the_sample_clip_needs_one_more_click(page: Any, api: ApiServer) -> None:
    page.click("#try-sample")
    page.get_by_text("press Segment").wait_for()
    names = page.locator("#objects input[type=text]").evaluate_all("all => all.map((each) => each.value)")
    assert names == ["Clown fish", "Blue fish", "Green fish"]
    session_id = start(page)
    wait_for_end(page)
    assert [item["name"] for item in session_of(api, session_id)["objects"]] == [
        "Clown fish",
        "Blue fish",
        "Green fish",
    ]


def test_all_formats_are_offered(page: Any) -> None:
    from service.export_formats import ExportFormat

    offered = page.evaluate("import('/js/downloads.js').then(({FORMATS}) => FORMATS.map(([format]) => format))")
    assert sorted(offered) == sorted(get_args(ExportFormat))


def test_an_object_can_be_removed(page: Any, api: ApiServer, clip: Path) -> None:
    session_id = segment_two(page, clip)
    page.click("[data-field=remove-2]")
    page.locator("[data-field=name-2]").wait_for(state="detached")
    page.wait_for_function("() => document.getElementById('session-state').textContent.startsWith('Completed')")
    assert [item["object_id"] for item in session_of(api, session_id)["objects"]] == [1]
    page.reload()
    wait_for_end(page)
    assert page.locator("#objects li").count() == 1, "masks that were made before still name it; the page does not"
    page.click("[data-field=remove-1]")
    page.get_by_text("only object").wait_for()
