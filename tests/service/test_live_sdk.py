"""The Python client's live mode against a real server and worker, over connections that break."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.sync.server import ServerConnection, serve

from service.client import ApiError, AsyncClient, Client, LiveFrame
from service.client.errors import ClientError
from service.client.live import LiveTalk
from service.client.wire import MaskFrame
from service.demo_clip import render
from tests.service.api_server import ApiServer, running_api
from tests.service.scene import Scene, make_frames

pytestmark = pytest.mark.anyio


@pytest.fixture
def api(scene: Scene) -> Iterator[ApiServer]:
    with running_api(scene.settings.model_copy(update={"port": 0, "min_free_bytes": 0})) as server:
        yield server


def square(object_ids: tuple[int, ...] = (1,)) -> NDArray[np.uint8]:
    label_map = np.zeros((48, 64), np.uint8)
    for place, object_id in enumerate(object_ids):
        label_map[8:24, 4 + 18 * place : 18 + 18 * place] = object_id
    return label_map


def url_of(api: ApiServer) -> str:
    return f"http://127.0.0.1:{api.port}"


async def test_arrays_in_masks_out(api: ApiServer, scene: Scene) -> None:
    scene.start_worker()
    frames = make_frames(30)

    def talk() -> None:
        sent = [LiveFrame(frames[i], pts_s=i / 10, masks=square((1, 2)) if i == 10 else None) for i in range(30)]
        with Client(url_of(api)) as client:
            masks = list(client.live(iter(sent), square(), engine="fake", quality=None, window=4))
        assert [mask.frame_index for mask in masks] == list(range(30))
        assert [mask.pts_s for mask in masks] == [i / 10 for i in range(30)]
        assert all(np.shares_memory(mask.image, frames[mask.frame_index]) for mask in masks)
        assert [len(mask.objects) for mask in masks] == [1] * 10 + [2] * 20
        assert set(np.unique(masks[0].label_map)) == {0, 1}

    await anyio.to_thread.run_sync(talk)


async def test_the_awaiting_client_and_an_early_stop(api: ApiServer, scene: Scene) -> None:
    scene.start_worker()

    async def camera() -> AsyncIterator[NDArray[np.uint8]]:
        for frame in make_frames(10):
            yield frame

    async with AsyncClient(url_of(api)) as client:
        masks = [mask async for mask in client.live(camera(), square(), engine="fake")]
        assert [mask.seq for mask in masks] == list(range(10))
        stopped = client.live(list(make_frames(100)), square(), engine="fake", window=2)
        assert (await anext(stopped)).seq == 0
        await stopped.aclose()
        with anyio.fail_after(20):
            while (session := (await client.sessions())[0]).state != "completed":
                await anyio.sleep(0.05)
        assert session.raw["progress"]["frames_done"] < 100


async def test_a_restarted_server_and_a_killed_worker_lose_nothing(scene: Scene) -> None:
    settings = scene.settings.model_copy(update={"port": 0, "min_free_bytes": 0, "drain_timeout_s": 0.5})
    frames = make_frames(30)
    half, go_on = threading.Event(), threading.Event()

    def camera() -> Iterator[NDArray[np.uint8]]:
        yield from frames[:15]
        half.set()
        go_on.wait(60)
        yield from frames[15:]

    def talk(url: str, pictures: Iterator[NDArray[np.uint8]]) -> list[str]:
        with Client(url) as client:
            return [str(mask.objects) for mask in client.live(pictures, square(), engine="fake", quality=None)]

    found: list[str] = []
    scene.start_worker()
    async with anyio.create_task_group() as group:
        with running_api(settings) as first:
            url, again = url_of(first), settings.model_copy(update={"port": first.port})
            undisturbed = await anyio.to_thread.run_sync(talk, url, iter(frames))

            async def run() -> None:
                found.extend(await anyio.to_thread.run_sync(talk, url, camera()))

            group.start_soon(run)
            await anyio.to_thread.run_sync(half.wait)
            await scene.kill(scene.workers[0])
        go_on.set()
        scene.start_worker()
        with running_api(again):
            with anyio.fail_after(60):
                while len(found) < len(frames):
                    await anyio.sleep(0.05)
    assert found == undisturbed


async def test_what_goes_wrong_is_raised_where_masks_are_read(api: ApiServer, scene: Scene) -> None:
    def broken() -> Iterator[NDArray[np.uint8]]:
        yield make_frames(1)[0]
        raise RuntimeError("the camera is unplugged")

    def talk() -> None:
        with Client(url_of(api), patience_s=5.0) as client:
            with pytest.raises(RuntimeError, match="unplugged"):
                list(client.live(broken(), square(), engine="fake"))
            with pytest.raises(ClientError, match="uint8 RGB"):
                list(client.live([np.zeros((4, 4), np.uint8)], square(), engine="fake"))
            with pytest.raises(ApiError, match="no engine is called"):
                list(client.live(make_frames(1), square(), engine="nothing"))

    await anyio.to_thread.run_sync(talk)


async def test_a_real_engine_follows_a_camera_across_a_killed_worker(api: ApiServer, scene: Scene) -> None:
    clip = list(render(10, 72, 128))

    def follow(on_mask: Callable[[int], None]) -> list[NDArray[np.uint8]]:
        with Client(url_of(api)) as client:
            found: list[NDArray[np.uint8]] = []
            for mask in client.live(
                (frame.image for frame in clip), clip[0].label_map, engine="deaot-t", quality=None, window=3
            ):
                assert mask.seq == mask.frame_index == len(found)
                found.append(mask.label_map)
                on_mask(mask.seq)
            return found

    worker = scene.start_worker(engines=("deaot-t",))
    undisturbed = await anyio.to_thread.run_sync(follow, lambda seq: None)

    def kill(seq: int) -> None:
        if seq == 4:
            anyio.from_thread.run(scene.kill, worker)
            scene.start_worker(engines=("deaot-t",))

    masks = await anyio.to_thread.run_sync(follow, kill)
    assert len(masks) == len(undisturbed) == len(clip)
    for mask, other, frame in zip(masks, undisturbed, clip, strict=True):
        np.testing.assert_array_equal(mask, other)
        both, either = (mask > 0) & (frame.label_map > 0), (mask > 0) | (frame.label_map > 0)
        assert both.sum() > 0.5 * either.sum(), "it follows what it was given"


@pytest.fixture
def hasty_server() -> Iterator[str]:
    """A server that says everything at once and closes, without waiting for an acknowledgement."""

    def talk(socket: ServerConnection) -> None:
        socket.recv()
        for message in (
            {"type": "ready", "session_id": "s", "next_frame_index": 0},
            {"type": "mask", "seq": 0, "frame_index": 0, "size": [4, 4], "objects": [], "pts_s": 0.0},
            {"type": "mask", "seq": 1, "frame_index": 1, "size": [4, 4], "objects": [], "pts_s": 1.0},
            {"type": "end", "state": "completed", "frames": 2, "error": None},
        ):
            socket.send(json.dumps(message))

    with serve(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


async def test_masks_that_cannot_be_acknowledged_any_more_are_given_all_the_same(
    hasty_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = LiveTalk.received

    def late(self: LiveTalk, mask: MaskFrame) -> tuple[MaskFrame, str]:
        time.sleep(0.2)  # by now the server's close is here
        return taken(self, mask)

    monkeypatch.setattr(LiveTalk, "received", late)
    frames = make_frames(2)

    def talk() -> list[int]:
        with Client(hasty_server) as client:
            return [mask.seq for mask in client.live(frames, square(), engine="fake")]

    assert await anyio.to_thread.run_sync(talk) == [0, 1]
    async with AsyncClient(hasty_server) as awaiting:
        assert [mask.seq async for mask in awaiting.live(frames, square(), engine="fake")] == [0, 1]
