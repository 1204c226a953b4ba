"""Objects that join in mid-stream: how much of a newcomer survives, with and without releasing old background.

    python -m benchmarks.late_objects CLIP_DIR [--engine deaot-t] [--overlays DIR]

CLIP_DIR holds NNNNN.jpg and Annotations/NNNNN.png, one new object per annotated frame (DAVIS `judo` as prepared here).
Printed per object: area after 1 and 2 frames and at the end, as a share of its area in the annotation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from engines.aot.memory import LongTermMemory
from engines.registry import create
from engines.types import LabelMap, MemoryPolicy, Size


def read_clip(folder: Path) -> tuple[list[np.ndarray], dict[int, LabelMap]]:
    frames = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.jpg"))]
    maps = {int(path.stem): np.asarray(Image.open(path)) for path in sorted((folder / "Annotations").glob("*.png"))}
    return frames, {t: m for t, m in maps.items() if m.any()}


def run(engine_name: str, folder: Path, overlays: Path | None) -> dict[int, list[float]]:
    engine = create(engine_name)
    frames, references = read_clip(folder)
    track = engine.open(Size.of(frames[0]), MemoryPolicy(memorize_every=2))
    given: dict[int, int] = {}
    shares: dict[int, list[float]] = {}
    for t, frame in enumerate(frames):
        label_map = engine.propagate([track], [frame])[0].label_map if given else np.zeros(frame.shape[:2], np.uint8)
        for object_id in given:
            shares[object_id].append(float((label_map == object_id).sum()) / given[object_id])
        if t in references:
            newcomers = [int(i) for i in np.unique(references[t]) if i and int(i) not in given]
            engine.memorize(track, frame, references[t], object_ids=newcomers)
            for object_id in newcomers:
                given[object_id], shares[object_id] = int((references[t] == object_id).sum()), []
        if overlays is not None:
            save_overlay(frame, label_map, overlays / f"{t:05d}.png")
    return shares


def save_overlay(frame: np.ndarray, label_map: LabelMap, path: Path) -> None:
    colours = np.array([[0, 0, 0], [230, 60, 60], [60, 200, 60], [70, 90, 240], [230, 200, 40]], dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    mixed = np.where(label_map[..., None] > 0, frame // 2 + colours[label_map % 5] // 2, frame)
    Image.fromarray(mixed.astype(np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--engine", default="deaot-t")
    parser.add_argument("--overlays", type=Path)
    options = parser.parse_args()
    released = run(options.engine, options.clip, options.overlays)
    with patch.object(LongTermMemory, "release_background", return_value=0):
        kept = run(options.engine, options.clip, None)
    for object_id, shares in released.items():
        for name, values in (("released", shares), ("kept", kept[object_id])):
            row = " ".join(f"{value:5.2f}" for value in (*values[:2], *values[-1:]))
            print(f"object {object_id}, background {name:8s}: {row or '(last frame)'}")


if __name__ == "__main__":
    main()
