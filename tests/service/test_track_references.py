"""`maskstream track` without a mask: boxes, points, texts, nothing at all; on a drawn video, the fake engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from service.cli.app import app
from service.media import MediaLimits, open_media
from service.video_file import VideoWriter
from tests.service.discs import BLUE, draw, overlap, red_at, write_discs


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "discs.mp4"
    write_discs(path, 8)
    return path


def first_mask(clip: Path, folder: Path, *options: str) -> NDArray[np.uint8]:
    arguments = ["track", str(clip), "-o", str(folder), "--engine", "fake", "--device", "cpu", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert len(list(folder.glob("*.png"))) == 8
    with Image.open(folder / "00000.png") as image:
        return np.array(image, dtype=np.uint8)


def test_box_point_and_text_are_numbered_in_that_order(clip: Path, tmp_path: Path) -> None:
    found = first_mask(clip, tmp_path, "--text", "the blue one", "--box", "20,20,40,40")
    assert overlap(found == 1, red_at(0)) > 0.85 and overlap(found == 2, BLUE) > 0.7


def test_with_nothing_given_what_moves_is_followed(clip: Path, tmp_path: Path) -> None:
    found = first_mask(clip, tmp_path, "--max-objects", "1")
    assert set(np.unique(found)) == {0, 1} and overlap(found == 1, red_at(0)) > 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--box", "1,2,3"), "x,y,width,height"),
        (("--point", "500,5"), "outside the frame"),
        (("--budget-mib", "-3"), "--budget-mib must be more than 0"),
        (("--device", "warp"), "'warp' is no device; there are auto, cpu, cuda"),
        (("--mask", "."), "is a directory"),
    ],
)
def test_what_names_nothing_is_refused(clip: Path, tmp_path: Path, options: tuple[str, str], says: str) -> None:
    arguments = ["track", str(clip), "-o", str(tmp_path), "--engine", "fake", "--device", "cpu", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert says in result.output + str(result.exception)


def test_an_exemplar_and_its_mask(clip: Path, tmp_path: Path) -> None:
    picture, mark = np.full((40, 60, 3), 150, np.uint8), np.zeros((40, 60), np.uint8)
    mark[10:30, 20:40] = 1
    picture[mark > 0] = (40, 60, 190)
    Image.fromarray(picture).save(tmp_path / "blue.png")
    Image.fromarray(mark).save(tmp_path / "mark.png")
    pair = ("--exemplar", str(tmp_path / "blue.png"), "--exemplar-mask", str(tmp_path / "mark.png"))
    assert overlap(first_mask(clip, tmp_path / "out", *pair) == 1, BLUE) > 0.7
    arguments = ["track", str(clip), "-o", str(tmp_path / "none"), "--engine", "fake", *pair[:2]]
    assert "1 picture and 0 masks" in str(CliRunner().invoke(app, arguments).exception)


def test_masks_never_overwrite_the_frames(tmp_path: Path) -> None:
    Image.fromarray(draw(0)).save(tmp_path / "00000.png")
    before = (tmp_path / "00000.png").read_bytes()
    said = CliRunner().invoke(app, ["track", str(tmp_path), "-o", f"{tmp_path}/.", "--engine", "fake"])
    assert "would overwrite" in str(said.exception) and (tmp_path / "00000.png").read_bytes() == before


def test_the_overlay_plays_as_fast_as_the_video_and_older_masks_are_named(tmp_path: Path) -> None:
    clip, folder = tmp_path / "slow.mp4", tmp_path / "out"
    folder.mkdir()
    (folder / "00003.png").write_bytes(b"of another video")
    with VideoWriter(clip, 10) as writer:
        for index in range(3):
            writer.write(draw(index))
    arguments = ["track", str(clip), "-o", str(folder), "--engine", "fake", "--box", "20,20,40,40", "--overlay"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0 and "3/3" in said.output and "also holds 1 mask from before, 00003.png" in said.output
    written = open_media(folder / "overlay.mp4", MediaLimits(10**7, 16, 100, 60.0)).describe()
    assert (written.frames, written.fps) == (3, 10.0)
