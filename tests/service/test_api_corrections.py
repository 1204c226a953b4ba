"""Corrections over real HTTP, with a real worker: what changes, what stays, and what is refused."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.masks import compose
from service.settings import Settings
from tests.service import discs
from tests.service.api_server import ApiServer, mask_png, receive_all, running_api, running_worker
from tests.service.videos import image_bytes, write_video

FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", FRAMES).read_bytes()


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix="test-api-corrections:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
        engines=("fake",),
    )
    with running_api(settings) as server, running_worker(settings):
        yield server


@pytest.fixture(scope="module")
def completed(api: ApiServer, clip: bytes) -> tuple[str, list[dict[str, Any]]]:
    """A session that has run through and been put away, and its masks."""
    session_id = str(api.upload(clip, [mask_png((1,))]).json()["session_id"])
    masks = stream(api, session_id)
    deadline = time.monotonic() + 30
    file = api.settings.data_dir / "sessions" / session_id / "session.json"
    while '"completed"' not in file.read_text():  # written again behind the message that ends the stream
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.01)
    return session_id, masks


def stream(api: ApiServer, session_id: str, after: int = -1) -> list[dict[str, Any]]:
    with api.socket(session_id, f"?after={after}") as socket:
        messages = receive_all(socket)
    assert messages[-1]["type"] == "end", messages[-1]
    assert messages[-1]["state"] == "completed"
    return [message for message in messages if message["type"] == "mask"]


def label_map(message: dict[str, Any]) -> np.ndarray:
    return compose(message["objects"], tuple(message["size"]))


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"frame_index": "99"}, 422, "outside the frames"),
        ({"frame_index": "2", "direction": "sideways"}, 422, "direction"),
        ({"frame_index": "x"}, 422, "frame_index"),
    ],
)
def test_bad_corrections_are_refused(
    api: ApiServer, completed: tuple[str, list[dict[str, Any]]], fields: dict[str, str], status: int, words: str
) -> None:
    files_before = api.stored_files()
    answer = api.http.post(
        f"/sessions/{completed[0]}/references", files=[("mask", ("m.png", mask_png(), "image/png"))], data=fields
    )
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert api.stored_files() == files_before


def test_nothing_sent_and_nobodys_session(api: ApiServer, completed: tuple[str, list[dict[str, Any]]]) -> None:
    empty = api.http.post(f"/sessions/{completed[0]}/references", files=[("direction", (None, "forward"))])
    assert empty.status_code == 422
    assert "no reference" in empty.json()["detail"]
    mask = {"mask": ("m.png", mask_png(), "image/png")}
    settled = api.http.post(f"/sessions/{completed[0]}/references", files=mask, data={"engine": "stm"})
    assert settled.status_code == 422 and "engine is settled when the video is uploaded" in settled.json()["detail"]
    gone = api.http.post(f"/sessions/{'0' * 26}/references", files=[("mask", ("m.png", mask_png(), "image/png"))])
    assert gone.status_code == 404


def test_a_correction_makes_the_later_frames_again(api: ApiServer, completed: tuple[str, list[dict[str, Any]]]) -> None:
    session_id, before = completed
    assert [message["seq"] for message in before] == list(range(FRAMES))
    given = mask_png((1, 2))
    answer = api.http.post(
        f"/sessions/{session_id}/references", files=[("mask", ("m.png", given, "image/png"))], data={"frame_index": "8"}
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["notes"] == ["mask: pixel values are object ids [1, 2]"]
    after = stream(api, session_id, after=FRAMES - 1)
    assert [message["seq"] for message in after] == list(range(FRAMES, FRAMES + 4))
    assert [message["frame_index"] for message in after] == [8, 9, 10, 11]
    with Image.open(io.BytesIO(given)) as image:
        assert np.array_equal(label_map(after[0]), np.asarray(image))
    document = api.http.get(f"/sessions/{session_id}").json()
    assert [item["object_id"] for item in document["objects"]] == [1, 2]
    assert document["revision"] == 1
    early = api.http.get(f"/sessions/{session_id}/masks/3.png")
    with Image.open(io.BytesIO(early.content)) as image:
        assert np.array_equal(np.asarray(image), label_map(before[3])), "frames before the correction stay"


def shown(api: ApiServer, item: dict[str, Any]) -> np.ndarray:
    """[H, W] label map that a reference became."""
    with Image.open(io.BytesIO(api.http.get(item["label_map"]).content)) as image:
        return np.asarray(image)


def test_references_of_every_kind_show_what_they_were_taken_for(api: ApiServer, tmp_path: Path) -> None:
    upload = {"text": "the red disc", "box": f"{130 - 16},{70 - 16},32,32"}
    files = [("video", ("v.mp4", discs.write_discs(tmp_path / "discs.mp4", 6), "video/mp4"))]
    session_id = api.http.post("/sessions", files=files, data={"engine": "fake", **upload}).json()["session_id"]
    first = stream(api, session_id)
    entries = [
        {"object_id": 3, "kind": "point", "point": [130, 70], "frame_index": 2, "direction": "both"},
        {"object_id": 4, "kind": "text", "text": "the blue swan", "frame_index": 3},
        {"object_id": 5, "kind": "exemplar", "exemplar": "exemplar_5", "exemplar_mask": "mask_5", "frame_index": 3},
        {"object_id": 6, "kind": "mask", "mask": "mask_6", "frame_index": 5},
    ]
    drawn = {"exemplar_5": discs.draw(0), "mask_5": discs.red_at(0), "mask_6": 6 * discs.BLUE}
    parts = [(name, (name, image_bytes(pixels.astype(np.uint8)), "image/png")) for name, pixels in drawn.items()]
    link = f"/sessions/{session_id}/references"
    sent = api.http.post(link, files=parts, data={"references": json.dumps(entries), "direction": "backward"})
    assert sent.status_code == 202, sent.text
    stream(api, session_id, after=first[-1]["seq"])
    listed = api.http.get(link).json()
    of = {item["object_ids"][0]: item for item in listed["references"]}
    assert {i: (item["kind"], item["direction"], item["frame_index"]) for i, item in of.items()} == {
        1: ("text", "both", 0),
        2: ("box", "both", 0),
        3: ("point", "both", 2),
        4: ("text", "backward", 3),
        5: ("exemplar", "backward", 3),
        6: ("mask", "backward", 5),
    }
    truth = {1: discs.red_at(0), 2: discs.BLUE, 3: discs.BLUE, 4: discs.BLUE, 5: discs.red_at(3), 6: discs.BLUE}
    assert {i for i, mask in truth.items() if discs.overlap(shown(api, of[i]) == i, mask) < 0.7} == set()
    assert sum("does not know" in text for text in listed["warnings"]) == 2, listed["warnings"]
    assert "text 'the blue swan': text-rules does not know swan; the rest of the text was used" in listed["warnings"]
    assert any("does not compare pictures" in text for text in listed["warnings"])


def test_what_nobody_named_is_shown_too(api: ApiServer, tmp_path: Path) -> None:
    session_id = api.upload(discs.write_discs(tmp_path / "discs.mp4", 6), max_objects="1").json()["session_id"]
    stream(api, session_id)
    (found,) = api.http.get(f"/sessions/{session_id}/references").json()["references"]
    assert (found["kind"], found["object_ids"]) == ("auto", [1])
    assert discs.overlap(shown(api, found) == 1, discs.red_at(0)) > 0.6


def test_a_dropped_object_leaves_every_file(api: ApiServer, clip: bytes) -> None:
    session_id = api.upload(clip, [mask_png((1, 2))]).json()["session_id"]
    stream(api, session_id)
    link = f"/sessions/{session_id}"
    assert {o for line in rle(api, link) for o in line} == {1, 2}
    assert api.http.delete(f"{link}/objects/7").status_code == 404
    assert api.http.delete(f"{link}/objects/2").status_code == 202
    wait_for(api, session_id, lambda document: document["revision"] == 1 and document["state"] == "completed")
    assert [item["object_id"] for item in api.http.get(link).json()["objects"]] == [1]
    assert rle(api, link) == [[1]] * FRAMES
    with Image.open(io.BytesIO(api.http.get(f"{link}/masks/3.png").content)) as image:
        assert set(np.unique(np.asarray(image))) == {0, 1}
    last = api.http.delete(f"{link}/objects/1")
    assert last.status_code == 409 and "only object" in last.json()["detail"]


def rle(api: ApiServer, link: str) -> list[list[int]]:
    """Object ids of every frame of the finished file."""
    lines = api.http.get(f"{link}/masks?format=rle").text.splitlines()
    return [[item["object_id"] for item in json.loads(line)["objects"]] for line in lines]


def wait_for(api: ApiServer, session_id: str, condition: Callable[[dict[str, Any]], bool]) -> None:
    for _ in range(400):
        if condition(api.http.get(f"/sessions/{session_id}").json()):
            return
        time.sleep(0.05)
    raise AssertionError(api.http.get(f"/sessions/{session_id}").json())
