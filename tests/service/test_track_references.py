"""`maskstream track` without a mask: boxes, points, texts, nothing at all; on a drawn video, the fake engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from service.cli.app import app
from service.video_file import VideoWriter

HEIGHT, WIDTH = 96, 160


def disc(x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


RED, BLUE = disc(40, 40, 18), disc(130, 70, 14)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "discs.mp4"
    grain = np.random.default_rng(1).integers(150, 220, (HEIGHT // 4, WIDTH // 4, 1))
    with VideoWriter(path, 25) as video:
        for index in range(8):
            frame = np.kron(grain, np.ones((4, 4, 3))).astype(np.uint8)
            frame[BLUE], frame[disc(40 + 5 * index, 40, 18)] = (40, 60, 190), (200, 30, 35)
            video.write(frame)
    return path


def first_mask(clip: Path, folder: Path, *options: str) -> NDArray[np.uint8]:
    arguments = ["track", str(clip), "-o", str(folder), "--engine", "fake", "--device", "cpu", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert len(list(folder.glob("*.png"))) == 8
    with Image.open(folder / "00000.png") as image:
        return np.array(image, dtype=np.uint8)


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_box_point_and_text_are_numbered_in_that_order(clip: Path, tmp_path: Path) -> None:
    found = first_mask(clip, tmp_path, "--text", "the blue one", "--box", "20,20,40,40")
    assert overlap(found == 1, RED) > 0.85 and overlap(found == 2, BLUE) > 0.7


def test_with_nothing_given_what_moves_is_followed(clip: Path, tmp_path: Path) -> None:
    found = first_mask(clip, tmp_path, "--max-objects", "1")
    assert set(np.unique(found)) == {0, 1} and overlap(found == 1, RED) > 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--box", "1,2,3"), "x,y,width,height"), (("--point", "500,5"), "outside the frame")],
)
def test_what_names_nothing_is_refused(clip: Path, tmp_path: Path, options: tuple[str, str], says: str) -> None:
    arguments = ["track", str(clip), "-o", str(tmp_path), "--engine", "fake", "--device", "cpu", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert says in result.output + str(result.exception)
