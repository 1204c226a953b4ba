"""The decode child and its parent's side, on real files."""

from __future__ import annotations

import signal
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import DecodeFailed, UnreadableVideo
from service.media import open_media
from service.media.reader import scaled_size
from service.settings import Settings
from service.worker.child_frames import DecodeLimits
from service.worker.frames import FrameSource
from tests.service.videos import image_bytes, index_of, indices, numbered_frame, rotate, write_video, write_zip

LIMITS = replace(DecodeLimits.of(Settings()), frame_timeout_s=10.0, seek_timeout_s=20.0)


def read_all(source: FrameSource) -> Iterator[Any]:
    """Frames until the end."""
    while (frame := source.next_frame()) is not None:
        yield frame


def test_child_gives_every_frame_in_order_and_then_ends(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v", 30, b_frames=2)
    with FrameSource(video, LIMITS) as source:
        assert source.size == source.frame_size == (48, 80)
        assert indices(read_all(source)) == list(range(30))
        assert source.next_frame() is None


def test_child_scales_starts_anywhere_and_reads_backwards(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v", 30)
    with FrameSource(video, LIMITS, start_frame=20, step=-1, max_side=40) as source:
        assert (source.size, source.frame_size) == ((48, 80), (24, 40))
        assert indices(read_all(source)) == list(range(20, -1, -1))


class SilentSource(FrameSource):
    """Its child neither answers nor uses processor time, so that no limit of the kernel ends it."""

    module = "tests.service.silent_decode"


def until_ready(source: FrameSource) -> None:
    """Ask as the step loop does, which never waits for a decoder."""
    deadline = time.monotonic() + 60.0
    while not source.is_ready():
        assert time.monotonic() < deadline, "asked for ever"
        time.sleep(0.01)


def test_a_child_that_stays_silent_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v", 3)
    limits = replace(LIMITS, seek_timeout_s=0.2)
    with (
        SilentSource(video, limits) as source,
        pytest.raises(DecodeFailed, match="stopped at frame 0: it took too long") as failed,
    ):
        until_ready(source)
    assert failed.value.frame_index == 0


def test_a_child_that_falls_silent_is_replaced(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v", 20, size=(240, 400))  # too large for many to lie in the pipe
    shown = []
    with FrameSource(video, replace(LIMITS, frame_timeout_s=0.5)) as source:
        for _ in range(4):
            until_ready(source)
            frame = source.next_frame()
            assert frame is not None
            shown.append(index_of(frame.rgb))
        child = source._child
        assert child is not None
        child.send_signal(signal.SIGSTOP)
        while True:
            until_ready(source)
            try:
                frame = source.next_frame()
            except DecodeFailed:
                raise AssertionError(f"given up after {shown}") from None
            if frame is None:
                break
            shown.append(index_of(frame.rgb))
        assert child.poll() is not None, "the silent one is not left behind"
    assert shown == list(range(20))


def test_killed_child_is_replaced_at_the_same_frame(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v", 25, size=(240, 400))  # too large for many to lie in the pipe
    with FrameSource(video, LIMITS) as source:
        shown = []
        while (frame := source.next_frame()) is not None:
            shown.append(index_of(frame.rgb))
            if frame.frame_index in (5, 6, 17):
                child = source._child
                assert child is not None
                child.kill()
                child.wait()
    assert shown == list(range(25))


def test_stuck_child_is_given_up_with_the_frame(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v", 3)
    with FrameSource(video, replace(LIMITS, seek_timeout_s=0.001), start_frame=2) as source:
        with pytest.raises(DecodeFailed, match="stopped at frame 2: it took too long") as caught:
            source.next_frame()
    assert caught.value.frame_index == 2


def test_child_ends_when_its_parent_lets_go(tmp_path: Path) -> None:
    source = FrameSource(write_video(tmp_path / "v", 200), LIMITS)
    source.next_frame()
    child = source._child
    assert child is not None and child.stdin is not None
    child.stdin.close()  # what the kernel does when the parent dies
    assert child.wait(timeout=10) == 0
    source.close()


def test_a_file_that_is_gone_is_said_to_be_and_not_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with FrameSource(tmp_path / "deleted", LIMITS) as source, pytest.raises(DecodeFailed, match="file is gone"):
        source.next_frame()
    assert capfd.readouterr().err == ""


def test_truncated_video_keeps_the_frames_before_the_damage(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v", 60, container="matroska", codec="mpeg4", size=(96, 160))
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    with FrameSource(video, LIMITS) as source:
        shown = []
        with pytest.raises(DecodeFailed) as caught:
            for frame in read_all(source):
                shown.append(frame.frame_index)
            raise DecodeFailed("matroska ended quietly", frame_index=len(shown))
    assert shown == list(range(caught.value.frame_index))
    assert 5 < len(shown) < 60


def test_ready_means_that_a_frame_is_waiting(tmp_path: Path) -> None:
    with FrameSource(write_video(tmp_path / "v", 3), LIMITS) as source:
        deadline = time.monotonic() + 20
        while not source.is_ready() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert source.is_ready()
        assert source.next_index == 0
        frame = source.next_frame()
        assert frame is not None and frame.frame_index == 0


@pytest.mark.parametrize("start", [0, 7, 301, 333, 399])
def test_seek_gives_the_frame_that_decoding_gives(tmp_path: Path, start: int) -> None:
    video = write_video(tmp_path / "v", 400, keyframe_every=50, b_frames=2)
    reader = open_media(video, LIMITS.media)
    assert indices(reader.frames(start, reader.size)) == list(range(start, 400))


def test_variable_frame_rate_keeps_index_and_time(tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 30, 60]
    reader = open_media(write_video(tmp_path / "v", 7, pts=times), LIMITS.media)
    frames = list(reader.frames(0, reader.size))
    assert indices(iter(frames)) == list(range(7))
    assert [round(frame.pts_s * 25) for frame in frames] == times
    assert reader.describe().frames == 7


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_is_applied(tmp_path: Path, turns: int) -> None:
    video = rotate(write_video(tmp_path / "v", 2), turns)
    reader = open_media(video, LIMITS.media)
    upright = numbered_frame(0)
    expected = np.rot90(upright, -turns)
    assert reader.size == expected.shape[:2]
    frame = next(reader.frames(0, reader.size)).rgb
    assert np.abs(frame.astype(int) - expected).mean() < 12


def test_pixels_are_square(tmp_path: Path) -> None:
    reader = open_media(write_video(tmp_path / "v", 2, aspect=Fraction(2, 1)), LIMITS.media)
    assert reader.size == (48, 160)
    assert index_of(next(reader.frames(0, reader.size)).rgb) == 0


@pytest.mark.parametrize(
    ("codec", "container"), [("mpeg4", "avi"), ("libvpx", "webm"), ("mjpeg", "matroska"), ("libx264", "mpegts")]
)
def test_containers_and_codecs(tmp_path: Path, codec: str, container: str) -> None:
    reader = open_media(write_video(tmp_path / "v", 5, codec=codec, container=container), LIMITS.media)
    assert indices(reader.frames(0, reader.size)) == list(range(5))
    assert reader.describe().frames == 5


def test_zip_and_folder_of_images_are_videos(tmp_path: Path) -> None:
    entries = {f"clip/frame_{i}.png": image_bytes(numbered_frame(i)) for i in (10, 9, 2, 0, 1)}
    entries |= {"clip/readme.txt": b"no frame", "__MACOSX/clip/frame_0.png": b"no frame"}
    reader = open_media(write_zip(tmp_path / "z", entries), LIMITS.media)
    shown = [index_of(frame.rgb) for frame in reader.frames(0, reader.size)]
    assert shown == [0, 1, 2, 9, 10]
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i:05}.jpg").write_bytes(image_bytes(numbered_frame(i), "JPEG"))
    reader = open_media(folder, LIMITS.media)
    assert indices(reader.frames(1, reader.size)) == [1, 2]


def test_bad_image_names_its_frame(tmp_path: Path) -> None:
    entries = {f"{i}.png": image_bytes(numbered_frame(i)) for i in range(4)}
    entries["2.png"] = entries["2.png"][:100]
    entries["3.png"] = image_bytes(numbered_frame(3, 32, 32))
    reader = open_media(write_zip(tmp_path / "z", entries), LIMITS.media)
    with pytest.raises(DecodeFailed, match=r"frame 2 \('2.png'\) is not a readable image"):
        list(reader.frames(0, reader.size))
    with pytest.raises(DecodeFailed, match="is 32x32; the first is 48x80"):
        list(reader.frames(3, reader.size))


def bad_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """name -> (content, what the refusal says)."""
    good = write_video(folder / "good", 3).read_bytes()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    png = image_bytes(numbered_frame(0))
    header = b"IHDR" + struct.pack(">II", 30000, 30000) + png[24:29]
    bomb = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    two = write_zip(folder / "two", {"a/0.png": png, "b/0.png": png}).read_bytes()
    return {
        "empty": (b"", "not a readable video"),
        "zeros": (bytes(5000), "not a readable video"),
        "text": (b"hello world\n" * 50, "not a readable video"),
        "playlist": (playlist, "not a readable video"),
        "concat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a readable video"),
        "headerless": (good[: len(good) // 2], "not a readable video"),
        "image": (png, "a single PNG picture"),
        "gif": (image_bytes(numbered_frame(0), "GIF"), "ffmpeg -i"),
        "zip-without-entries": (write_zip(folder / "bare", {}).read_bytes(), "no images"),
        "zip-bomb": (write_zip(folder / "bomb", {"0.png": bomb}).read_bytes(), "exceeds limit"),
        "zip-two-folders": (two, "2 folders"),
        "zip-empty": (write_zip(folder / "none", {"a.txt": b"x"}).read_bytes(), "no images"),
        "zip-truncated": (two[:-30], "damaged"),
    }


def test_bad_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    for name, (content, reason) in bad_files(tmp_path).items():
        path = tmp_path / "upload"
        path.write_bytes(content)
        with pytest.raises(UnreadableVideo, match=reason):
            open_media(path, LIMITS.media)
            pytest.fail(f"{name} was taken")


def test_limits_hold_for_what_is_decoded(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v", 20)
    with pytest.raises(UnreadableVideo, match="Scale"):
        open_media(video, replace(LIMITS.media, max_pixels=48 * 79))
    with pytest.raises(UnreadableVideo, match="at least 64"):
        open_media(video, replace(LIMITS.media, min_side=64))
    with pytest.raises(UnreadableVideo, match="more than 10 frames"):
        open_media(video, replace(LIMITS.media, max_frames=10)).describe()
    with FrameSource(video, replace(LIMITS, media=replace(LIMITS.media, max_frames=10))) as source:
        with pytest.raises(DecodeFailed, match="more than 10 frames"):
            list(read_all(source))


def test_memory_limit_ends_the_frame_not_the_worker(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v", 2, size=(1080, 1920))
    with FrameSource(video, replace(LIMITS, memory_bytes=64 * 1024**2)) as source, pytest.raises(DecodeFailed):
        source.next_frame()


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((480, 854), None, (480, 854)),
        ((480, 854), 1000, (480, 854)),
        ((480, 854), 427, (240, 427)),
        ((1, 999), 9, (1, 9)),
    ],
)
def test_scaled_size(size: tuple[int, int], max_side: int | None, expected: tuple[int, int]) -> None:
    assert scaled_size(size, max_side) == expected
