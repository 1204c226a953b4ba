"""Written videos decode to what was written."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from service.video_file import VideoWriter


def ramp(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_frames_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 24.0) as writer:
        for value in (20, 120, 220):
            writer.write(ramp(value))
    with av.open(str(path)) as container:
        means = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
    assert means == pytest.approx([20, 120, 220], abs=4)


def test_odd_sizes_lose_one_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    with VideoWriter(path, 25.0) as writer:
        writer.write(ramp(90, 47, 63))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (46, 62)


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with VideoWriter(tmp_path / "clip.mp4", 24.0) as writer:
            writer.write(ramp(10))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []
