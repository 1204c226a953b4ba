"""4K video, landscape and portrait, through a real worker with the starter weights: masks come at the video's size."""

from __future__ import annotations

import io
from pathlib import Path

import anyio
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.schemas import SessionState, VideoInfo
from service.storage import INPUT
from service.video_file import VideoWriter
from service.worker.earlier import label_map_of
from tests.service.scene import Scene

pytestmark = pytest.mark.anyio
FRAMES = 3


def disc(size: tuple[int, int], frame_index: int) -> NDArray[np.uint8]:
    """[H, W] 1 inside a disc that moves to the right."""
    label_map = np.zeros(size, np.uint8)
    centre = (size[1] // 3 + 40 * frame_index, size[0] // 2)
    cv2.circle(label_map, centre, min(size) // 6, 1, thickness=-1)
    return label_map


def write_video(path: Path, size: tuple[int, int]) -> None:
    """An orange disc before a smooth blue ground."""
    ground = np.linspace(60, 160, size[1]).astype(np.uint8)[None, :, None] * np.ones((size[0], 1, 3), np.uint8)
    ground[..., :2] //= 3
    with VideoWriter(path, 25) as video:
        for index in range(FRAMES):
            video.write(np.where(disc(size, index)[..., None] == 1, np.array([240, 130, 20], np.uint8), ground))


@pytest.mark.parametrize(("size", "max_side"), [((2160, 3840), None), ((3840, 2160), 640)])
async def test_4k_frames(scene: Scene, tmp_path: Path, size: tuple[int, int], max_side: int | None) -> None:
    path = tmp_path / "large.mp4"
    await anyio.to_thread.run_sync(write_video, path, size)
    info = VideoInfo(name=f"{INPUT}/video.mp4", height=size[0], width=size[1])
    session_id = await scene.submit(path, video=info, engine="deaot-t", max_side=max_side)
    mask = io.BytesIO()
    Image.fromarray(disc(size, 0)).save(mask, format="PNG")
    scene.storage.write(session_id, f"{INPUT}/mask.png", mask.getvalue())
    await anyio.to_thread.run_sync(lambda: scene.run_here(engines=("deaot-t",)))
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    events = await scene.masks(session_id)
    assert [event.size for event in events] == [size] * FRAMES
    for event in events:
        found, true = label_map_of(event) == 1, disc(size, event.frame_index) == 1
        assert (found & true).sum() > 0.9 * (found | true).sum()
