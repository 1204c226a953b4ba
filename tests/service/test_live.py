"""Live sessions over real sockets, with real workers: frames in, masks out, and whatever goes wrong between."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from websockets.exceptions import ConnectionClosedOK

from service.settings import Settings
from service.worker.live_frames import LiveSource
from tests.service.api_server import ApiServer, receive_all, running_api
from tests.service.live_client import SIZE, live, mask_text, picture
from tests.service.scene import Scene, decoders_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings_for_live(scene: Scene) -> Settings:
    return scene.settings.model_copy(update={"port": 0, "min_free_bytes": 0, "janitor_interval_s": 0.2})


@pytest.fixture
def api(settings_for_live: Settings) -> Iterator[ApiServer]:
    with running_api(settings_for_live) as server:
        yield server


def document(api: ApiServer, session_id: str) -> dict[str, Any]:
    found: dict[str, Any] = api.http.get(f"/sessions/{session_id}").json()
    return found


def until(api: ApiServer, session_id: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    for _ in range(600):
        found = document(api, session_id)
        if condition(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"it did not come to pass: {document(api, session_id)}")


def content(masks: list[dict[str, Any]]) -> list[tuple[int, int, str]]:
    return [(mask["seq"], mask["frame_index"], str(mask["objects"])) for mask in masks]


async def test_masks_come_while_frames_are_sent(api: ApiServer, scene: Scene) -> None:
    scene.start_worker()

    def talk() -> str:
        with live(api) as client:
            ready = client.open(engine="fake", mask=mask_text((3, 7)))
            assert (ready["type"], ready["next_frame_index"], ready["policy"]) == ("ready", 0, "all")
            for index in range(8):
                client.say(type="frame", pts_s=index / 10)
                client.frames(index, index)
                mask = client.hear("mask")
                assert (mask["seq"], mask["frame_index"], mask["pts_s"]) == (index, index, index / 10)
                assert mask["size"] == list(SIZE) and [o["object_id"] for o in mask["objects"]] == [3, 7]
            client.say(type="end")
            end = client.hear("end")
            assert (end["state"], end["frames"], end["error"]) == ("completed", 8, None)
        found = document(api, ready["session_id"])
        assert found["state"] == "completed" and found["live"] and found["video"]["height"] == SIZE[0]
        assert api.http.get(f"/sessions/{ready['session_id']}/video").status_code == 404
        masks = api.http.get(f"/sessions/{ready['session_id']}/masks?format=rle").text.splitlines()
        assert len(masks) == 8
        return str(ready["session_id"])

    session_id = await anyio.to_thread.run_sync(talk)
    assert await scene.services.redis.exists(scene.services.keys.live_input(session_id)) == 0


async def test_resume_after_a_lost_socket_and_a_killed_worker(api: ApiServer, scene: Scene) -> None:
    def whole() -> list[dict[str, Any]]:
        with live(api) as client:
            client.open(engine="fake", mask=mask_text())
            client.frames(0, 39)
            return client.masks(40)

    def first_part() -> tuple[str, list[dict[str, Any]]]:
        with live(api) as client:
            session_id = client.open(engine="fake", mask=mask_text())["session_id"]
            client.frames(0, 19)
            return session_id, client.masks(12)

    def second_part(session_id: str) -> list[dict[str, Any]]:
        with live(api) as client:
            ready = client.open(session_id=session_id, after=11)
            assert ready["next_frame_index"] == 20
            client.frames(20, 39)
            return client.masks(28)

    worker = scene.start_worker()
    undisturbed = await anyio.to_thread.run_sync(whole)
    session_id, first = await anyio.to_thread.run_sync(first_part)
    await scene.kill(worker)
    scene.start_worker()
    second = await anyio.to_thread.run_sync(second_part, session_id)
    assert content(first + second) == content(undisturbed)


async def test_references_come_with_the_frame_they_were_drawn_on(api: ApiServer, scene: Scene) -> None:
    scene.start_worker()

    def talk() -> None:
        with live(api) as client:
            session_id = client.open(engine="fake", mask=mask_text((1,)))["session_id"]
            client.frames(0, 4)
            client.masks(5)
            client.say(type="frame", mask=mask_text((1, 2)))
            client.frames(5, 5)
            assert client.hear("revision")["from_frame"] == 5
            client.frames(6, 9)
            masks = client.masks(5)
        assert [len(mask["objects"]) for mask in masks] == [2] * 5
        found = document(api, session_id)
        assert [item["frame_index"] for item in found["references"]] == [0, 5]
        refused = api.http.post(f"/sessions/{session_id}/references", files={"mask": ("m.png", b"x")})
        assert refused.status_code == 409 and "/live" in refused.json()["detail"]

    await anyio.to_thread.run_sync(talk)


async def test_a_dropped_object_leaves_the_masks_from_then_on(api: ApiServer, scene: Scene) -> None:
    scene.start_worker()

    def talk() -> None:
        with live(api) as client:
            session_id = client.open(engine="fake", mask=mask_text((1, 2)))["session_id"]
            client.frames(0, 4)
            assert [len(mask["objects"]) for mask in client.masks(5)] == [2] * 5
            assert api.http.delete(f"/sessions/{session_id}/objects/2").status_code == 202
            assert client.hear("revision")["revision"] == 1
            client.frames(5, 9)
            assert [[o["object_id"] for o in mask["objects"]] for mask in client.masks(5)] == [[1]] * 5

    await anyio.to_thread.run_sync(talk)


async def test_an_idle_session_gives_its_worker_up_and_comes_back(api: ApiServer, scene: Scene) -> None:
    scene.start_worker(live_idle_s=0.3)

    def talk() -> None:
        with live(api) as client:
            session_id = client.open(engine="fake", mask=mask_text())["session_id"]
            client.frames(0, 9)
            client.masks(10)
            until(api, session_id, lambda d: d["state"] == "idle")
            client.frames(10, 19)
            assert [mask["seq"] for mask in client.masks(10)] == list(range(10, 20))
            client.say(type="end")
            assert client.hear("end")["frames"] == 20

    await anyio.to_thread.run_sync(talk)


async def test_latest_replaces_what_waits_and_says_so(api: ApiServer, scene: Scene) -> None:
    scene.start_worker(fake_step_s=0.05)

    def talk() -> None:
        with live(api) as client:
            client.open(engine="fake", mask=mask_text(), policy="latest", window=8)
            for index in range(40):
                client.say(type="frame", pts_s=float(index), **({"mask": mask_text((1, 2))} if index == 20 else {}))
                client.frames(index, index)
            client.say(type="end")
            masks, dropped = [], 0
            while (message := client.hear())["type"] != "end":
                if message["type"] == "mask":
                    masks.append(message)
                    with contextlib.suppress(ConnectionClosedOK):  # the server has said all and closed
                        client.say(type="ack", seq=message["seq"])
                elif message["type"] == "dropped":
                    dropped += message["frames"]
        assert len(masks) + dropped == 40 and dropped > 0
        assert [mask["frame_index"] for mask in masks] == list(range(len(masks)))
        times = [mask["pts_s"] for mask in masks]
        assert times[0] == 0.0, "the references of `open` speak of the first picture"
        assert times == sorted(times) and times[-1] == 39.0, "the newest is never dropped"
        assert 20.0 in times, "nor is one with references"

    await anyio.to_thread.run_sync(talk)


async def test_a_damaged_picture_shows_the_one_before_it(api: ApiServer, scene: Scene) -> None:
    scene.start_worker()

    def talk() -> None:
        with live(api) as client:
            session_id = client.open(engine="fake", mask=mask_text())["session_id"]
            client.frames(0, 1)
            client.socket.send(picture(2)[:-4000])
            client.frames(3, 3)
            assert [mask["seq"] for mask in client.masks(4)] == [0, 1, 2, 3]
        found = until(api, session_id, lambda d: bool(d["warnings"]))
        assert found["warnings"] == [
            "frame 2 could not be decoded; the one before it was used in its place (told once)"
        ]

    await anyio.to_thread.run_sync(talk)


async def test_what_is_kept_stays_bounded_and_a_client_that_left_is_given_up(scene: Scene) -> None:
    changes = {"port": 0, "min_free_bytes": 0, "janitor_interval_s": 0.2, "live_gone_s": 0.5, "live_idle_s": 0.2}
    scene.settings = scene.settings.model_copy(update={**changes, "live_keep_s": 0.3})
    scene.start_worker()

    def talk(api: ApiServer) -> str:
        with live(api) as client:
            session_id = client.open(engine="fake", mask=mask_text(), window=4)["session_id"]
            for index in range(120):
                client.frames(index, index)
                assert client.hear("mask")["seq"] == index
                client.say(type="ack", seq=index)
                time.sleep(0.01)
        until(api, session_id, lambda d: d["state"] == "completed")
        with api.socket(session_id) as socket:
            trimmed, first, *_ = [m for m in receive_all(socket) if m["type"] in ("trimmed", "mask")]
        assert trimmed["type"] == "trimmed" and first["seq"] == trimmed["from_seq"] > 0
        lines = api.http.get(f"/sessions/{session_id}/masks?format=rle").text.splitlines()
        assert len(lines) == 120 - trimmed["from_seq"]
        return str(session_id)

    with running_api(scene.settings) as api:
        session_id = await anyio.to_thread.run_sync(talk, api)
    services = scene.services
    assert len(await services.sessions.archives(session_id)) < 120 / scene.settings.archive_every
    assert not await services.redis.exists(services.keys.live_input(session_id))


async def test_a_decoder_that_hangs_is_replaced_and_no_frame_is_lost(api: ApiServer, scene: Scene) -> None:
    worker = scene.start_worker(decode_frame_timeout_s=0.5)

    def talk() -> None:
        with live(api) as client:
            client.open(engine="fake", mask=mask_text())
            client.frames(0, 4)
            masks = client.masks(5)
            (hung,) = decoders_of(worker.pid)
            os.kill(hung, signal.SIGSTOP)
            client.frames(5, 9)
            masks += client.masks(5)
            assert [mask["seq"] for mask in masks] == list(range(10))
            assert hung not in decoders_of(worker.pid), "the one that hung is not left behind"
            client.say(type="end")
            assert client.hear("end")["state"] == "completed"

    await anyio.to_thread.run_sync(talk)


async def test_a_decoder_that_always_hangs_fails_the_session(
    api: ApiServer, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveSource, "module", "tests.service.silent_decode")

    def talk() -> None:
        with live(api) as client:
            session_id = client.open(engine="fake", mask=mask_text())["session_id"]
            client.frames(0, 2)
            until(api, session_id, lambda d: d.get("state") == "queued")
            scene.run_here(decode_seek_timeout_s=0.3)
            end = client.hear("end")
        assert end["state"] == "failed" and end["error"]["code"] == "decode-failed"
        assert end["error"]["detail"] == "the decoder stopped at frame 0: it took too long"
        assert document(api, session_id)["error"]["frame_index"] == 0

    await anyio.to_thread.run_sync(talk)
    assert not decoders_of(os.getpid())
