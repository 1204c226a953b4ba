"""A drawn scene for references: a red disc that wanders to the right and a blue one at rest, on grey texture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.video_file import VideoWriter

HEIGHT, WIDTH, FRAMES = 96, 160, 12
Mask = NDArray[np.bool_]


def disc(x: float, y: float, radius: float) -> Mask:
    """[H, W] bool."""
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def red_at(index: int) -> Mask:
    """Where the red disc is in a frame."""
    return disc(40 + 5 * index, 40, 18)


BLUE = disc(130, 70, 14)


def draw(index: int) -> NDArray[np.uint8]:
    """[H, W, 3] RGB of a frame."""
    rng = np.random.default_rng(1)
    texture = np.kron(rng.integers(150, 220, (HEIGHT // 4, WIDTH // 4, 1)), np.ones((4, 4, 3)))
    frame = texture.astype(np.uint8)
    frame[BLUE] = (40, 60, 190)
    frame[red_at(index)] = (200, 30, 35)
    return frame


def write_discs(path: Path, frames: int = FRAMES) -> bytes:
    """The video's bytes; the file stays."""
    with VideoWriter(path, 25) as video:
        for index in range(frames):
            video.write(draw(index))
    return path.read_bytes()


def overlap(first: Mask, second: Mask) -> float:
    """IoU."""
    return float((first & second).sum() / (first | second).sum())
