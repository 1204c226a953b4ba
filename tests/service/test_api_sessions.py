"""Sessions over real HTTP: what is taken, what is refused and how, and that refusals leave nothing behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.options import default_engine
from service.redis_keys import Keys
from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, running_api
from tests.service.videos import write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 6).read_bytes()


@pytest.fixture(scope="module")
def module_settings(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        redis_url=redis_url,
        redis_prefix="test-api-sessions:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
        rate_limit_burst=10_000,
        max_upload_bytes=2_000_000,
        max_mask_bytes=50_000,
        max_field_bytes=10_000,
        max_objects=5,
    )


@pytest.fixture(scope="module")
def api(module_settings: Settings) -> Iterator[ApiServer]:
    with running_api(module_settings) as server:
        yield server


def test_upload_makes_a_queued_session_with_links(api: ApiServer, clip: bytes) -> None:
    answer = api.upload(clip, [mask_png((1, 3))], max_side="64", memory="window")
    assert answer.status_code == 202
    document = answer.json()
    session_id = document["session_id"]
    assert answer.headers["location"] == document["links"]["self"] == f"/sessions/{session_id}"
    assert document["state"] == "queued"
    assert [item["object_id"] for item in document["objects"]] == [1, 3]
    assert document["notes"] == ["mask: pixel values are object ids [1, 3]"]
    waits = "no worker serves fake at the moment, and the session waits for one; no worker is connected at all"
    assert document["warnings"] == [waits]
    assert api.http.get(document["links"]["self"]).json()["warnings"] == []
    assert "name" not in document["video"], "where we keep it is our own affair"
    assert (document["video"]["height"], document["video"]["width"], document["video"]["frames"]) == (48, 80, 6)
    assert document["progress"]["frames_total"] == 6
    assert document["memory"]["kind"] == "window"
    shown = api.http.get(f"/sessions/{session_id}").json()
    assert shown["session_id"] == session_id and shown["name"] == "clip.mp4"
    listed = api.http.get("/sessions").json()["sessions"]
    assert session_id in [item["session_id"] for item in listed]
    files = [name for name in api.stored_files() if name.startswith(f"{session_id}/input/")]
    assert len(files) == 2
    assert api.http.delete(f"/sessions/{session_id}").status_code == 204


def test_pages_are_newest_first(api: ApiServer, clip: bytes) -> None:
    made = [api.upload(clip, [mask_png()]).json()["session_id"] for _ in range(3)]
    first = api.http.get("/sessions?limit=2").json()
    second = api.http.get(f"/sessions?limit=2&cursor={first['next']}").json()
    ids = [item["session_id"] for item in first["sessions"] + second["sessions"]]
    assert ids == made[::-1]
    for session_id in made:
        api.http.delete(f"/sessions/{session_id}")


def test_cancel_and_delete(api: ApiServer, clip: bytes) -> None:
    session_id = api.upload(clip, [mask_png()]).json()["session_id"]
    assert api.http.post(f"/sessions/{session_id}/cancel").json()["state"] == "cancelled"
    assert api.http.post(f"/sessions/{session_id}/cancel").status_code == 200
    assert api.http.get(f"/sessions/{session_id}/masks").status_code == 409
    assert api.http.delete(f"/sessions/{session_id}").status_code == 204
    assert not [name for name in api.stored_files() if name.startswith(session_id)]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/masks"), ("GET", "/masks/0.png")):
        gone = api.http.request(method, f"/sessions/{session_id}{path}")
        assert gone.status_code == 404 and gone.json()["type"].endswith("not-found")


def test_references_list_names_its_files(api: ApiServer, clip: bytes) -> None:
    entries = [
        {"object_id": 7, "kind": "mask", "mask": "mask_0", "name": "swan", "color": "#ff8800"},
        {"object_id": 9, "kind": "mask", "mask": "mask_b", "frame_index": 2},
    ]
    files = {
        "video": ("v", clip),
        "mask_0": ("a.png", mask_png((7, 8))),
        "mask_b": ("b.png", mask_png((255,))),
    }
    answer = api.http.post("/sessions", files=files, data={"engine": "fake", "references": json.dumps(entries)})
    assert answer.status_code == 202, answer.text
    document = answer.json()
    assert document["objects"][0] == {"object_id": 7, "name": "swan", "color": "#ff8800"}
    assert [(item["frame_index"], item["object_ids"]) for item in document["references"]] == [(0, [7]), (2, [9])]
    api.http.delete(document["links"]["self"])


def test_idempotency_key_gives_the_same_session_again(api: ApiServer, clip: bytes) -> None:
    header = {"Idempotency-Key": "upload-1"}
    first = api.upload(clip, [mask_png()], headers=header)
    before = api.stored_files()
    again = api.upload(clip, [mask_png()], headers=header)
    assert again.status_code == 202
    assert again.json()["session_id"] == first.json()["session_id"]
    assert again.headers["idempotency-replayed"] == "true"
    other = api.upload(clip, [mask_png((2,))], headers=header)
    assert other.status_code == 409
    assert api.stored_files() == before
    api.http.delete(first.json()["links"]["self"])


def bad_uploads(clip: bytes) -> dict[str, tuple[dict[str, Any], int, str]]:
    """name -> (arguments of upload(), status, what the detail says)."""
    good = [mask_png()]
    reference = {"object_id": 1, "kind": "mask"}
    return {
        "empty video": ({"video": b"", "masks": good}, 422, "it has 0 bytes"),
        "text": ({"video": b"no video" * 99, "masks": good}, 422, "not a readable video"),
        "cut video": ({"video": clip[:500], "masks": good}, 422, "not a readable video"),
        "mask of another size": ({"video": clip, "masks": [mask_png(size=(24, 40))]}, 422, "Resize the mask"),
        "empty mask": ({"video": clip, "masks": [mask_png(())]}, 422, "holds no object"),
        "RGB mask": ({"video": clip, "masks": [mask_png(mode="RGB")]}, 422, "Pillow"),
        "too many objects": ({"video": clip, "masks": [mask_png((1, 2, 3, 4, 5, 6))]}, 422, "at most 5"),
        "mask is no PNG": ({"video": clip, "masks": [b"GIF89a"]}, 422, "not a PNG"),
        "unknown engine": ({"video": clip, "masks": good, "engine": "sam-9"}, 422, "there are: "),
        "unknown field": ({"video": clip, "masks": good, "engien": "fake"}, 422, "'engien' is unknown"),
        "bad max_side": ({"video": clip, "masks": good, "max_side": "-3"}, 422, "whole number"),
        "bad range": ({"video": clip, "masks": good, "start_frame": "4", "end_frame": "2"}, 422, "greater than"),
        "start beyond the end": ({"video": clip, "masks": good, "start_frame": "6"}, 422, "beyond the video's 6"),
        "bad memory": ({"video": clip, "masks": good, "memory": "elephant"}, 422, "memory.kind"),
        "bad memory JSON": ({"video": clip, "masks": good, "memory": '{"budget": 1}'}, 422, "unknown fields"),
        "exact memory without merging": (
            {"video": clip, "masks": good, "memory": '{"kind": "window", "exact": true}'},
            422,
            "a mode of the adaptive memory",
        ),
        "references no JSON": ({"video": clip, "references": "{"}, 422, "not valid JSON"),
        "references no list": ({"video": clip, "references": "{}"}, 422, "must be a JSON list"),
        "reference without file": ({"video": clip, "references": json.dumps([reference])}, 422, "does not have"),
        "reference id 0": ({"video": clip, "references": '[{"object_id":0,"kind":"text"}]'}, 422, "object_id"),
        "mask too many bytes": ({"video": clip, "masks": [bytes(60_000)]}, 413, "larger than 50000"),
        "field too many bytes": ({"video": clip, "masks": good, "references": "x" * 20_000}, 413, "larger than 10000"),
        "text without a known word": ({"video": clip, "text": "the dog"}, 422, "Known words: black"),
        "bad Idempotency-Key": (
            {"video": clip, "masks": good, "headers": {"Idempotency-Key": "a b"}},
            422,
            "Idempotency",
        ),
        "declared too large": ({"video": bytes(2_000_001), "masks": good}, 413, "larger than 2000000"),
    }


def test_bad_uploads_are_refused_with_a_remedy_and_leave_nothing(api: ApiServer, clip: bytes) -> None:
    before = api.stored_files()
    wrong = []
    for name, (arguments, status, detail) in bad_uploads(clip).items():
        answer = api.upload(**arguments)
        document = answer.json()
        good_form = answer.headers["content-type"] == "application/problem+json" and document["status"] == status
        if answer.status_code != status or detail not in document["detail"] or not good_form:
            wrong.append((name, answer.status_code, document.get("detail")))
        if "Traceback" in answer.text or document.get("request_id") != answer.headers["x-request-id"]:
            wrong.append((name, answer.status_code, f"leaks, or lacks its request id: {answer.text}"))
    assert wrong == []
    assert api.stored_files() == before
    assert api.http.get("/sessions").json()["sessions"] == []


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"no boundary at all", 400),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="engine"\r\n\r\nfake', 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="engine"\r\n\r\nfake\r\n--b--\r\n',
            422,
        ),
    ],
)
def test_malformed_bodies(api: ApiServer, content_type: str, body: bytes, status: int) -> None:
    before = api.stored_files()
    answer = api.http.post("/sessions", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert api.stored_files() == before


def test_size_is_counted_while_streaming_whatever_the_headers_say(api: ApiServer) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
        for _ in range(100):
            yield bytes(100_000)

    before = api.stored_files()
    answer = api.http.post("/sessions", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert api.stored_files() == before


def test_limits_on_sessions_and_queue(redis_url: str, tmp_path: Path, clip: bytes, keys: Keys) -> None:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix=keys.prefix,
        data_dir=tmp_path,
        port=0,
        min_free_bytes=0,
        max_sessions_per_key=2,
    )
    with running_api(settings) as api:
        first = api.upload(clip, [mask_png()]).json()
        api.upload(clip, [mask_png()])
        refused = api.upload(clip, [mask_png()])
        assert refused.status_code == 429 and refused.headers["retry-after"] == "10"
        assert len(list((tmp_path / "sessions").iterdir())) == 2
        api.http.delete(first["links"]["self"])
        assert api.upload(clip, [mask_png()]).status_code == 202
    with running_api(settings.model_copy(update={"max_queue_length": 2, "max_sessions_per_key": 9})) as api:
        refused = api.upload(clip, [mask_png()])
        assert refused.status_code == 429 and "wait already" in refused.json()["detail"]
    with running_api(settings.model_copy(update={"min_free_bytes": 10**18})) as api:
        assert api.upload(clip, [mask_png()]).status_code == 507


def test_a_session_that_names_no_engine_gets_one_that_is_served() -> None:
    assert default_engine(Settings()) == default_engine(Settings(engines=("stm-t", "deaot-t"))) == "deaot-t"
    assert default_engine(Settings(engines=("stm-t", "afb-urr-t"))) == "stm-t"
    assert default_engine(Settings(engines=("stm-t",), default_engine="fake")) == "fake"


def test_a_method_that_an_address_does_not_take(api: ApiServer) -> None:
    wrong = api.http.put("/sessions")
    assert wrong.status_code == 405 and "/docs lists what each takes" in wrong.json()["detail"]


def test_health_engines_metrics_and_headers(api: ApiServer) -> None:
    assert api.http.get("/healthz").json() == {"status": "ok"}
    ready = api.http.get("/readyz")
    assert ready.status_code == 503
    assert (ready.json()["redis"], ready.json()["storage"], ready.json()["workers"]) == (True, True, 0)
    engines = {item["name"]: item for item in api.http.get("/engines").json()["engines"]}
    assert engines["fake"]["ready"] is False
    metrics = api.http.get("/metrics").text
    assert "maskstream_http_request_seconds_bucket" in metrics and "maskstream_queue_length" in metrics
    headers = api.http.get("/sessions", headers={"X-Request-ID": "mine-1"}).headers
    assert headers["x-request-id"] == "mine-1"
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert api.http.get("/nowhere/at/all").json()["type"] == "urn:maskstream:problem:not-found"


def test_a_budget_that_cannot_hold_the_references_is_refused_with_the_smallest(api: ApiServer, clip: bytes) -> None:
    cells = 3 * 5  # 48 x 80 pixels at stride 16
    memory = {"budget_tokens": 2 * 2 * cells - 1}
    answer = api.upload(clip, [mask_png((1, 3))], engine="stm-t", memory=json.dumps(memory))
    assert answer.status_code == 422
    assert f"the smallest that works is {2 * 2 * cells}" in answer.json()["detail"]
    too_small = api.upload(clip, [mask_png((1, 3))], engine="afb-urr", memory=json.dumps({"budget_mib": 0.01}))
    assert "the smallest that works is 0.23" in too_small.json()["detail"]
    for engine, least in (("deaot-t", 2 * 4 * 6), ("r50-aot-l", 2 * 4 * 6), ("swinb-deaot-l", 2 * cells), ("stm", 60)):
        refused = api.upload(clip, [mask_png((1, 3))], engine=engine, memory=json.dumps({"budget_tokens": least - 1}))
        assert f"the smallest that works is {least}" in refused.json()["detail"]
    fits = api.upload(clip, [mask_png((1, 3))], engine="stm-t", memory=json.dumps({"budget_tokens": 2 * 2 * cells}))
    assert fits.status_code == 202
    api.http.delete(f"/sessions/{fits.json()['session_id']}")
