"""Annotated clips on disk: where their frames and masks lie, read one at a time. Knows no engine and no score."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engines.errors import TrainingDataError
from engines.types import Frame, LabelMap

_FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class AnnotatedClip:
    """One clip with a label map for every frame. `composite` marks pasted scenes, which are reported apart."""

    name: str
    frame_paths: tuple[Path, ...]
    label_paths: tuple[Path, ...]
    composite: bool = False

    def frames(self) -> Iterator[Frame]:
        """[H, W, 3] uint8 RGB, in order."""
        for path in self.frame_paths:
            yield read_frame(path)

    def label_map(self, index: int) -> LabelMap:
        """[H, W] uint8 object ids of one frame."""
        return read_label_map(self.label_paths[index])


def read_frame(path: Path) -> Frame:
    """[H, W, 3] uint8 RGB of one image file."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"), dtype=np.uint8)


def read_label_map(path: Path) -> LabelMap:
    """[H, W] uint8 ids of a palette, grey or bilevel PNG; a picture of only {0, 255} is one object.

    Raises TrainingDataError for colour masks.
    """
    return binary_as_object(read_ids(path))


def binary_as_object(labels: LabelMap) -> LabelMap:
    """The same label maps, of any shape; where all they hold is {0, 255} that is an object and not IGNORE_LABEL."""
    return (labels == 255).astype(np.uint8) if set(np.unique(labels).tolist()) <= {0, 255} else labels


def read_ids(path: Path) -> LabelMap:
    """[H, W] uint8 values of a palette, grey or bilevel PNG as they are. Raises TrainingDataError for colour masks."""
    with Image.open(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise TrainingDataError(f"{path.name}: mode {image.mode} is no label map; save it as palette or grey PNG")
        return np.array(image, dtype=np.uint8)


def find_clips(folder: Path) -> tuple[list[AnnotatedClip], list[str]]:
    """Clips with a mask for every frame, by name, and why each other folder was left out.

    Layouts: `<clip>/*.jpg` with `<clip>/Annotations/*.png`, or DAVIS / YouTube-VOS trees
    (`JPEGImages[/480p]/<clip>` beside `Annotations[/480p]/<clip>`). Raises TrainingDataError if nothing is usable.
    """
    found: list[AnnotatedClip] = []
    left_out: list[str] = []
    for name, frame_dir, label_dir in _clip_folders(folder):
        clip = _match(name, frame_dir, label_dir)
        if isinstance(clip, str):
            left_out.append(f"{name}: {clip}")
        else:
            found.append(clip)
    if not found:
        raise TrainingDataError(f"no clip in {folder} has a mask for every frame. " + "; ".join(left_out))
    return found, left_out


def _clip_folders(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    root, resolution = folder / "JPEGImages", ""
    if root.is_dir():
        if (root / "480p").is_dir():
            root, resolution = root / "480p", "480p"
        for frame_dir in sorted(p for p in root.iterdir() if p.is_dir()):
            yield frame_dir.name, frame_dir, folder / "Annotations" / resolution / frame_dir.name
        return
    if not folder.is_dir():
        raise TrainingDataError(f"{folder} is not a folder")
    for frame_dir in sorted(p for p in folder.iterdir() if p.is_dir()):
        yield frame_dir.name, frame_dir, frame_dir / "Annotations"


def _match(name: str, frame_dir: Path, label_dir: Path) -> AnnotatedClip | str:
    frames = sorted(p for p in frame_dir.iterdir() if p.suffix.lower() in _FRAME_SUFFIXES)
    labels = tuple(label_dir / f"{p.stem}.png" for p in frames)
    if len(frames) < 3:
        return f"{len(frames)} frames, at least 3 are needed"
    missing = sum(not p.is_file() for p in labels)
    if missing:
        return f"{missing} of {len(frames)} frames have no mask"
    manifest = _manifest(frame_dir / "manifest.json")
    if manifest.get("gt", "all") != "all":
        return "its masks are prompts, not ground truth of every frame"
    return AnnotatedClip(name, tuple(frames), labels, composite="COMPOSITE" in str(manifest.get("dataset", "")))


def _manifest(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    loaded = json.loads(path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}
