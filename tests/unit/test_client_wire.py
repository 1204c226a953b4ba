"""The client's reading and writing of messages, without a server."""

from __future__ import annotations

import base64
import io
import json
import ssl
import zipfile
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from service.client import ApiError, Client, ClientError, SessionCancelled, SessionFailed, forms, wire
from service.client.errors import ConnectionLost
from service.client.live import LiveTalk
from service.client.retry import Patience
from service.client.tls import tls_context
from service.masks import encode_objects


def mask_message(label_map: np.ndarray, seq: int = 3) -> str:
    objects = [{**item, "score": 0.9, "uncertainty": 0.25} for item in encode_objects(label_map, [1, 4])]
    return json.dumps(
        {"type": "mask", "seq": seq, "frame_index": 5, "pts_s": 0.2, "size": label_map.shape, "objects": objects}
    )


def test_a_mask_message_becomes_the_label_map_that_was_encoded() -> None:
    label_map = np.zeros((9, 13), np.uint8)
    label_map[2:5, 3:9] = 1
    label_map[4:8, 6:13] = 4
    frame = wire.parse_message(mask_message(label_map))
    assert isinstance(frame, wire.MaskFrame)
    assert (frame.seq, frame.frame_index, frame.pts_s) == (3, 5, 0.2)
    assert np.array_equal(frame.label_map, label_map)
    assert frame.mask(4).sum() == 28
    assert [item.uncertainty for item in frame.objects] == [0.25, 0.25]
    assert frame.objects[0].bbox == (3, 2, 6, 3)


def test_ends_become_their_exceptions() -> None:
    completed = wire.parse_message('{"type":"end","state":"completed","frames":5,"error":null}')
    assert isinstance(completed, wire.End)
    completed.raise_unless_completed()
    failed = wire.parse_message('{"type":"end","state":"failed","error":{"detail":"frame 7 is damaged"}}')
    assert isinstance(failed, wire.End)
    with pytest.raises(SessionFailed, match="frame 7 is damaged"):
        failed.raise_unless_completed()
    with pytest.raises(SessionCancelled):
        wire.End("cancelled", None).raise_unless_completed()


def test_a_refusal_in_the_stream_carries_its_problem() -> None:
    with pytest.raises(ApiError, match="no such session") as caught:
        wire.parse_message('{"type":"error","problem":{"status":404,"title":"Not found","detail":"no such session"}}')
    assert caught.value.status == 404


def test_a_refusal_without_a_problem_document_is_still_readable() -> None:
    error = wire.problem_of(502, b"<html>Bad gateway</html>")
    assert error.status == 502
    assert "Bad gateway" in str(error)


@pytest.mark.parametrize(
    ("base", "after", "expected"),
    [
        ("http://host:8000", -1, "ws://host:8000/sessions/abc/stream"),
        ("https://host/maskstream/", 41, "wss://host/maskstream/sessions/abc/stream?after=41"),
    ],
)
def test_stream_addresses(base: str, after: int, expected: str) -> None:
    assert wire.stream_url(base, "abc", after) == expected


def test_form_fields() -> None:
    fields = forms.form_fields(
        {"engine": "deaot-t", "text": ["a dog", "a cat"], "memory": {"kind": "window"}, "box": None}
    )
    assert fields == {"engine": "deaot-t", "text": ["a dog", "a cat"], "memory": '{"kind": "window"}'}


@pytest.mark.parametrize("key", ["abc\n", "a b", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ClientError, match="the API key holds spaces, line ends"):
        Client(api_key=key)


def test_sessions_are_collected_over_pages() -> None:
    pages, asked = wire.Pages(450), []
    while (query := pages.query()) is not None:
        asked.append(query)
        start = int(query.get("cursor", 0))
        names = range(start, min(start + int(query["limit"]), 430))
        following = str(names[-1] + 1) if names[-1] + 1 < 430 else None
        pages.take({"sessions": [{"session_id": str(n), "state": "queued"} for n in names], "next": following})
    assert [session.session_id for session in pages.sessions] == [str(n) for n in range(430)]
    assert asked == [{"limit": 200}, {"limit": 200, "cursor": "200"}, {"limit": 50, "cursor": "400"}]


def test_places_may_be_numbers() -> None:
    assert forms.form_fields({"box": (1, 2, 3, 4), "point": [np.float32(5), 6]}) == {
        "box": "[1, 2, 3, 4]",
        "point": "[5.0, 6]",
    }
    several = forms.form_fields({"box": [(1, 2, 3, 4), [5, 6, 7, 8]], "point": ["1,2", "3,4"]})
    assert several == {"box": ["[1, 2, 3, 4]", "[5, 6, 7, 8]"], "point": ["1,2", "3,4"]}


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.full((4, 6), 300), "not 300 to 300"),
        (np.full((4, 6), -1), "not -1 to -1"),
        (np.full((4, 6), 0.7), "p > 0.5"),
        (np.zeros((0, 6)), r"not ndarray \[0, 6\]"),
        ({"mask": 1}, "a mask is a path, an encoded PNG"),
    ],
)
def test_a_mask_whose_values_would_be_changed_is_refused(mask: Any, says: str) -> None:
    with pytest.raises(ClientError, match=says):
        forms.mask_files(mask)


@pytest.mark.parametrize("mask", [np.ones((2, 3), bool), np.ones((2, 3), np.int64), np.ones((2, 3)), [[1, 1, 1]] * 2])
def test_a_mask_of_any_type_keeps_its_values(mask: Any) -> None:
    ((_, (_, data, _)),) = forms.mask_files([mask])
    assert isinstance(data, bytes)
    with Image.open(io.BytesIO(data)) as image:
        assert np.asarray(image).tolist() == [[1, 1, 1]] * 2


def test_a_live_session_opens_with_pictures_given_as_for_an_upload() -> None:
    picture, mark = np.zeros((2, 3, 3), np.uint8), np.ones((2, 3), np.uint8)
    references = {"exemplar": picture, "exemplar_mask": mark, "files": {"mask_0": mark}, "box": [(1, 2, 3, 4)]}
    talk = LiveTalk(mark, policy="all", window=4, quality=None, options=references)
    opening = json.loads(talk.opening())
    assert [len(opening[name]) for name in ("mask", "exemplar", "exemplar_mask")] == [1, 1, 1]
    assert base64.b64decode(opening["mask_0"]) == base64.b64decode(opening["mask"][0])
    assert opening["box"] == [[1, 2, 3, 4]]


@pytest.mark.parametrize("frames", [[], [None], [np.zeros((4, 6, 3))], [np.zeros((4, 6, 4), np.uint8)]])
def test_what_is_no_frame_is_refused(frames: Any) -> None:
    with pytest.raises(ClientError, match=r"no frames were given|a frame must be \[H, W, 3\] uint8 RGB, not"):
        forms.form_files(frames, None)


def test_frames_and_masks_survive_as_files() -> None:
    frames = [np.full((4, 6, 3), value, np.uint8) for value in (10, 200)]
    labels = np.array([[0, 3], [7, 0]], np.uint8)
    (_, (name, video, _)), (_, (_, mask, _)) = forms.form_files(frames, labels)
    assert name == "frames.zip"
    assert isinstance(video, bytes)
    assert isinstance(mask, bytes)
    with zipfile.ZipFile(io.BytesIO(video)) as archive:
        assert archive.namelist() == ["00000.png", "00001.png"]
        with Image.open(archive.open("00001.png")) as image:
            assert np.array_equal(np.asarray(image), frames[1])
    with Image.open(io.BytesIO(mask)) as image:
        assert np.array_equal(np.asarray(image), labels)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="holds no images"):
        forms.form_files(tmp_path, None)


def test_patience_grows_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("service.client.retry.time.monotonic", lambda: now[0])
    patience = Patience("http://host", 10.0)
    pauses = [patience.pause_after(OSError("gone")) for _ in range(7)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
    patience.arrived()
    assert patience.pause_after(OSError("gone")) == pauses[0]
    now[0] = 11.0
    with pytest.raises(ConnectionLost, match="10 s"):
        patience.pause_after(OSError("gone"))


def test_certificates_are_read_once_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[ssl.SSLContext] = []
    real = httpx2.create_ssl_context

    def counted() -> ssl.SSLContext:
        read.append(real())
        return read[-1]

    monkeypatch.setattr(httpx2, "create_ssl_context", counted)
    tls_context.cache_clear()
    for url in ("http://127.0.0.1:1", "https://127.0.0.1:1"):
        Client(url).close()
    assert len(read) == 1
