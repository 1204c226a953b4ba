"""The Python client against a real API and worker, over connections that break."""

from __future__ import annotations

import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from maskstream import AsyncClient, Client
from service.client import ApiError, ConnectionLost, SessionInfo
from tests.service.api_server import ApiServer, running_api
from tests.service.scene import HEIGHT, WIDTH, Scene, make_frames


@pytest.fixture
def api(scene: Scene) -> Iterator[ApiServer]:
    with running_api(scene.settings.model_copy(update={"port": 0, "min_free_bytes": 0})) as server:
        yield server


def first_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8:24, 4:18] = 1
    return mask


@pytest.fixture
def session(api: ApiServer, scene: Scene) -> SessionInfo:
    """A completed one."""
    with Client(f"http://127.0.0.1:{api.port}") as client:
        made = client.create_session(make_frames(40), masks=first_mask(), engine="fake")
    scene.run_here()
    return made


class CuttingProxy:
    """Passes connections on to a port; the first `cuts` of them break after `after_bytes` bytes of answers."""

    def __init__(self, port: int, cuts: int, after_bytes: int) -> None:
        self.left = cuts
        self._target = port
        self._after_bytes = after_bytes
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            budget = self._after_bytes if self.left > 0 else None
            self.left -= 1
            threading.Thread(target=pass_on, args=(client, server, None), daemon=True).start()
            threading.Thread(target=pass_on, args=(server, client, budget), daemon=True).start()


def pass_on(source: socket.socket, sink: socket.socket, budget: int | None) -> None:
    """Copy bytes until the end, or until the budget is used up; then break both connections."""
    try:
        while (data := source.recv(4096)) and (budget is None or budget > 0):
            sink.sendall(data if budget is None else data[:budget])
            budget = None if budget is None else budget - len(data)
    except OSError:
        pass
    for end in (source, sink):
        end.close() if budget is None else end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(port: int, *, cuts: int, after_bytes: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(port, cuts, after_bytes)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.mark.anyio
async def test_a_download_goes_on_where_it_broke(api: ApiServer, session: SessionInfo, tmp_path: Path) -> None:
    whole = api.http.get(f"/sessions/{session.session_id}/masks?format=png").content
    with cutting(api.port, cuts=2, after_bytes=len(whole) // 2) as proxy, Client(proxy.url) as client:
        path = client.download(session.session_id, tmp_path / "masks.zip")
        assert path == tmp_path / "masks.zip" and path.read_bytes() == whole
        assert proxy.left < 0, "both cuts were met"
    with cutting(api.port, cuts=2, after_bytes=len(whole) // 2) as proxy:
        async with AsyncClient(proxy.url) as client:
            await client.download(session.session_id, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == whole
    assert zipfile.is_zipfile(path)
    assert sorted(each.name for each in tmp_path.glob("*.zip*")) == ["again.zip", "masks.zip"]


@pytest.mark.anyio
async def test_a_download_that_never_gets_further_is_given_up(
    api: ApiServer, session: SessionInfo, tmp_path: Path
) -> None:
    with (
        cutting(api.port, cuts=1000, after_bytes=700) as proxy,
        Client(proxy.url, patience_s=0.5) as client,
        pytest.raises(ConnectionLost),
    ):
        client.download(session.session_id, tmp_path / "masks.mp4", format="matte")
    assert list(tmp_path.glob("*masks*")) == [], "nothing half-done is left"


@pytest.mark.anyio
async def test_a_correction_makes_the_frames_around_it_again(
    api: ApiServer, scene: Scene, session: SessionInfo
) -> None:
    with Client(f"http://127.0.0.1:{api.port}") as client:
        last = max(frame.seq for frame in client.stream(session.session_id))
        asked = client.correct(session.session_id, 30, masks=first_mask())
        assert asked.state == "queued"
        scene.run_here()
        again = list(client.stream(session.session_id, after=last))
        assert {frame.frame_index for frame in again} >= set(range(30, 40))
        added = client.correct(session.session_id, 35, box=["10,10,20,20"], direction="forward")
        assert len(added.raw["objects"]) in (1, 2)
        picture = np.full((30, 40, 3), 90, np.uint8)
        marks = np.ones((30, 40), np.uint8)
        entry = {"object_id": 9, "kind": "exemplar", "exemplar": "exemplar_9", "exemplar_mask": "mask_9"}
        given = {"exemplar": [picture, picture], "exemplar_mask": [marks, marks]}
        named = {"references": [{**entry, "frame_index": 36}], "files": {"exemplar_9": picture, "mask_9": marks}}
        client.correct(session.session_id, 36, **given, **named)
        assert sum("exemplar" in name for name in api.stored_files()) == 6, "three pictures and their masks"
        with pytest.raises(ApiError, match="2 images, 1 mask"):
            client.correct(session.session_id, 36, exemplar=[picture, picture], exemplar_mask=marks)
        with pytest.raises(ApiError, match="outside the frames"):
            client.correct(session.session_id, 400, masks=first_mask())
    async with AsyncClient(f"http://127.0.0.1:{api.port}") as client:
        with pytest.raises(ApiError, match="no reference was sent"):
            await client.correct(session.session_id, 3)
