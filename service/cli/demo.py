"""`maskstream demo`: the whole service on a rendered clip whose true masks are known."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.error import URLError
from urllib.request import urlopen

import typer

from service.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from service.client import Client
    from service.demo_clip import DemoFrame

START_TIMEOUT_S = 120.0
DEFAULT_URL = "http://127.0.0.1:8000"


def register(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command()(demo)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("maskstream-demo"),
    url: Annotated[str, typer.Option("--url", envvar="MASKSTREAM_URL", help="A running service.")] = DEFAULT_URL,
    key: Annotated[str | None, typer.Option("--key", envvar="MASKSTREAM_API_KEY", help="Its API key.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Engine; the server's default if left out.")] = None,
) -> None:
    """Render a clip, send it through the service, and compare the masks with the truth."""
    from service.client import Client
    from service.demo_clip import FPS, render

    output.mkdir(parents=True, exist_ok=True)
    clip = list(render())
    video, mask = _write_inputs(clip, output, FPS)
    with _running_service(url) as address, Client(address, api_key=key) as client:
        label_maps, frames_per_s = _stream(client, video, mask, len(clip), engine)
    _write_overlay(clip, label_maps, output / "overlay.mp4", FPS)
    region, contour = _score(clip, label_maps)
    typer.echo(f"J&F {50 * (region + contour):.1f} (J {100 * region:.1f}, F {100 * contour:.1f}) on {len(clip)} frames")
    typer.echo(f"{frames_per_s:.1f} frames per second, upload and start included")
    typer.echo(f"clip, first mask and overlay: {output.resolve()}")


def _write_inputs(clip: list[DemoFrame], folder: Path, fps: int) -> tuple[Path, Path]:
    from service.masks import encode_png
    from service.video_file import VideoWriter

    video, mask = folder / "clip.mp4", folder / "00000.png"
    with VideoWriter(video, fps) as writer:
        for frame in clip:
            writer.write(frame.image)
    mask.write_bytes(encode_png(clip[0].label_map))
    return video, mask


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - an address that the user gave
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@contextmanager
def _running_service(url: str) -> Iterator[str]:
    """The service at `url`, or one of our own, on a free port and with a folder that goes when it goes."""
    if _answers(url):
        yield url
        return
    from service.supervisor import free_port

    with tempfile.TemporaryDirectory(prefix="maskstream-demo-") as data_dir:
        port = free_port()
        log = Path(data_dir) / "serve.log"
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--data-dir", data_dir]
        with log.open("wb") as out:
            server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            own = f"http://127.0.0.1:{port}"
            typer.echo(f"no service at {url}; starting one")
            _wait_until_ready(own, server, log)
            yield own
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"the service did not start; its last words:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def _stream(
    client: Client, video: Path, mask: Path, frames: int, engine: str | None
) -> tuple[list[NDArray[np.uint8]], float]:
    """Label maps in frame order, and frames per second from the upload to the last mask."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    label_maps: dict[int, NDArray[np.uint8]] = {}
    started = time.monotonic()
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("masks", total=frames)
        for frame in client.segment(video, mask, engine=engine):
            label_maps[frame.frame_index] = frame.label_map
            bar.advance(task)
    elapsed_s = time.monotonic() - started
    return [label_maps[index] for index in sorted(label_maps)], len(label_maps) / elapsed_s


def _write_overlay(clip: list[DemoFrame], label_maps: list[NDArray[np.uint8]], path: Path, fps: int) -> None:
    from service.overlay import draw_overlay
    from service.video_file import VideoWriter

    with VideoWriter(path, fps) as writer:
        for frame, label_map in zip(clip, label_maps, strict=True):
            writer.write(draw_overlay(frame.image, label_map))


def _score(clip: list[DemoFrame], label_maps: list[NDArray[np.uint8]]) -> tuple[float, float]:
    """Mean J and F over the objects and over all frames but the first and the last."""
    import numpy as np

    from engines.training.metrics import contour_accuracy, region_similarity

    regions, contours = [], []
    for frame, found in list(zip(clip, label_maps, strict=True))[1:-1]:
        for object_id in np.unique(clip[0].label_map)[1:]:
            truth = frame.label_map == object_id
            regions.append(region_similarity(found == object_id, truth))
            contours.append(contour_accuracy(found == object_id, truth))
    return float(np.mean(regions)), float(np.mean(contours))
