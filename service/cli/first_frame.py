"""What the first frame shows, from the options of `maskstream track`: masks, boxes, points, texts, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import InvalidInput, UnreadableMask
from service.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.prompts.resolver import ReferenceResolver, Resolved
    from engines.protocols import Engine
    from service.worker.child_frames import DecodeLimits

MAX_OBJECTS = 254
_LOOK_AHEAD = 7  # frames that tell what moves: a quarter of a second at 24 frames per second
_STEP = 2


@dataclass(frozen=True)
class Given:
    """References of the first frame as they stand on the command line; max_objects counts when all are empty.

    exemplars: a picture and its mask each.
    """

    masks: tuple[Path, ...] = ()
    boxes: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    max_objects: int = 3
    exemplars: tuple[tuple[Path, Path], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the objects must be found."""
        return not (self.masks or self.boxes or self.points or self.texts or self.exemplars)


def exemplar_pairs(pictures: Sequence[Path], masks: Sequence[Path]) -> tuple[tuple[Path, Path], ...]:
    """Exemplars and their masks in the order given. Raises InvalidInput unless there are as many of both."""
    if len(pictures) != len(masks):
        given = f"{counted(len(pictures), 'picture')} and {counted(len(masks), 'mask')}"
        raise InvalidInput(f"every --exemplar needs an --exemplar-mask; {given} are given")
    return tuple(zip(pictures, masks, strict=True))


@dataclass(frozen=True)
class FirstFrame:
    """label_map: [H, W] uint8 at the video's size. warnings: what was found in another way than asked for."""

    label_map: NDArray[np.uint8]
    object_ids: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def resolve_first_frame(
    given: Given, video: Path, limits: DecodeLimits, engine: Engine, resolver: ReferenceResolver
) -> FirstFrame:
    """Masks keep their ids; boxes, points, texts and exemplars get the next free ones, in that order.

    Raises InvalidInput, UnreadableMask, and the engines' UnusableReference and UnsupportedReference.
    """
    import numpy as np

    frames = _read_frames(video, limits)
    if given.is_empty:
        found = resolver.find_objects(frames, given.max_objects)
        return FirstFrame(found, tuple(int(value) for value in np.unique(found) if value))
    label_map, ids = _masks(given.masks, frames[0])
    warnings: list[str] = []
    for resolved in _others(given, frames, engine, resolver):
        object_id = max(ids, default=0) + 1
        label_map[resolved.mask] = object_id
        ids.append(object_id)
        warnings += resolved.warnings
    return FirstFrame(label_map, tuple(ids), tuple(warnings))


def _others(
    given: Given, frames: Sequence[NDArray[np.uint8]], engine: Engine, resolver: ReferenceResolver
) -> list[Resolved]:
    from engines.prompts.window import Box, Point

    found = [resolver.box(frames[0], Box(*_numbers("--box", text, 4))) for text in given.boxes]
    for text in given.points:
        x, y = _numbers("--point", text, 2)
        found.append(resolver.points(frames[0], [Point(x, y)]))
    found += [resolver.text(frames, text, engine) for text in given.texts]
    found += [_exemplar(picture, mask, frames, engine, resolver) for picture, mask in given.exemplars]
    return found


def _exemplar(
    picture: Path, mask: Path, frames: Sequence[NDArray[np.uint8]], engine: Engine, resolver: ReferenceResolver
) -> Resolved:
    from service.exemplars import read_exemplar

    exemplar = read_exemplar(picture.read_bytes())
    marked, _ = _masks([mask], exemplar)
    return resolver.exemplar(frames, exemplar, marked, engine)


def _numbers(option: str, text: str, count: int) -> list[float]:
    """`1,2` as numbers. Raises InvalidInput."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        what = "x,y,width,height" if count == 4 else "x,y"
        raise InvalidInput(f"{option} is {what} in pixels, not {text!r}")
    return numbers


def _masks(paths: Sequence[Path], frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[int]]:
    import numpy as np

    from service.masks import read_masks

    size = (int(frame.shape[0]), int(frame.shape[1]))
    if not paths:
        return np.zeros(size, np.uint8), []
    try:
        read = read_masks([path.read_bytes() for path in paths], size, max_objects=MAX_OBJECTS)
    except UnreadableMask as error:
        names = ", ".join(path.name for path in paths)
        raise UnreadableMask(f"{names}: {error.detail}") from error
    return read.label_map.copy(), list(read.object_ids)


def _read_frames(video: Path, limits: DecodeLimits) -> list[NDArray[np.uint8]]:
    """The first frame and some after it."""
    from service.worker.frames import FrameSource

    with FrameSource(video, limits) as source:
        read = [source.next_frame() for _ in range(_LOOK_AHEAD)]
    frames = [frame.rgb for frame in read if frame is not None][::_STEP]
    if not frames:
        raise InvalidInput("the video holds no frame")
    return frames
