"""The camera: Chromium's own test picture, followed live by a real worker."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

import pytest

from tests.browser.hand import drag, painted
from tests.service.api_server import ApiServer

pytestmark = pytest.mark.browser


def frames_seen(page: Any) -> int:
    """How many frames the page says were segmented."""
    found = re.match(r"(\d+) frame", page.inner_text("#camera-note"))
    return int(found.group(1)) if found else 0


def wait_for_frames(page: Any, more: int) -> int:
    """Until so many more are there."""
    wanted = frames_seen(page) + more
    page.wait_for_function("n => parseInt(document.getElementById('camera-note').textContent) >= n", arg=wanted)
    return frames_seen(page)


def begin(page: Any) -> str:
    """Mark the test picture and follow; the session's id."""
    page.click("#use-camera")
    page.get_by_text("stands still while you do").wait_for()
    drag(page, (0.45, 0.45), (0.55, 0.55))
    assert page.locator("#live-frame").is_visible(), "the picture stands still"
    page.click("#segment")
    page.wait_for_url("**/#/camera/*")
    wait_for_frames(page, 3)
    return str(page.evaluate("location.hash.slice(9)"))


def session_of(api: ApiServer, session_id: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{api.port}/sessions/{session_id}", timeout=20) as answer:
        return json.load(answer)


def test_camera_is_followed_corrected_and_ended(page: Any, api: ApiServer) -> None:
    session_id = begin(page)
    assert painted(page) > 0
    drag(page, (0.1, 0.1), (0.2, 0.2))
    standing = frames_seen(page)
    page.wait_for_timeout(300)
    assert frames_seen(page) - standing <= 3, "nothing but what was under way comes while the picture stands still"
    page.click("#camera-correct")
    wait_for_frames(page, 3)
    assert session_of(api, session_id)["revision"] == 1

    page.reload()
    page.get_by_text("Following").wait_for()
    wait_for_frames(page, 3)
    page.click("#camera-end")
    page.wait_for_url(f"**/#/s/{session_id}")
    page.locator("#session-state").get_by_text("Completed").wait_for()
    assert page.locator("#download-list button").count() > 3
    session = session_of(api, session_id)
    assert session["state"] == "completed" and [item["object_id"] for item in session["objects"]] == [1]


def test_camera_goes_on_after_a_lost_connection(page: Any) -> None:
    sockets: list[Any] = []
    page.route_web_socket("**/live", lambda socket: sockets.append((socket, socket.connect_to_server())))
    begin(page)
    for half in sockets[0]:
        half.close(code=1012)
    page.get_by_text("Connection lost").wait_for()
    wait_for_frames(page, 4)
    assert len(sockets) == 2


def test_a_refused_camera_says_what_to_do(page: Any) -> None:
    refuse = "() => Promise.reject(new DOMException('no', 'NotAllowedError'))"
    page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {refuse}; }}")
    page.click("#use-camera")
    page.get_by_text("Allow the camera for this page").wait_for()
