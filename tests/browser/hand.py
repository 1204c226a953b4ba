"""What a person does with the page, and what a person sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def choose(page: Any, clip: Path) -> None:
    """Open a video and wait for its first frame."""
    page.set_input_files("#file", str(clip))
    page.get_by_text("here or on any other frame").wait_for()


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw over the picture, in shares of its size."""
    box = page.locator("#marks").bounding_box()
    page.mouse.move(box["x"] + box["width"] * start[0], box["y"] + box["height"] * start[1])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end[0], box["y"] + box["height"] * end[1], steps=4)
    page.mouse.up()


def start(page: Any) -> str:
    """Press Segment; the session's id."""
    page.click("#segment")
    page.wait_for_url("**/#/s/*")
    return str(page.evaluate("location.hash.slice(4)"))


def wait_for_end(page: Any) -> None:
    page.locator("#session-state").get_by_text("Completed").wait_for()


def wait_for_mask(page: Any, frame: int) -> None:
    """Until the page has shown the masks of a frame, counted from 1."""
    page.wait_for_function("n => parseInt(document.getElementById('frame-number').textContent) >= n", arg=frame)


def show(page: Any, frame: int, frames: int) -> None:
    """Move the slider to a frame, counted from 1."""
    page.locator("#scrub").fill(str(frame - 1))
    page.get_by_text(f"{frame} / {frames}").wait_for()


def painted(page: Any, canvas: str = "masks") -> int:
    """How many pixels of a layer are not clear."""
    script = """id => {
        const canvas = document.getElementById(id);
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let count = 0;
        for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
        return count;
    }"""
    return int(page.evaluate(script, canvas))


def picture(page: Any, canvas: str = "masks") -> str:
    """The pixels of a layer, as something to compare."""
    return str(page.evaluate("id => document.getElementById(id).toDataURL()", canvas))
