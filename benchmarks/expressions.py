"""Pictures and expressions made of them: what `uniref-t` is trained on, and what readers of text are measured on.

Scenes and their expressions come from `engines.uniref.scenes` and `.attributes`: each text has one right answer.
Every 15th picture is held out; these are the pictures that the proposals' network has not been trained on either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engines.types import Frame, Size
from engines.uniref.attributes import Masks, express, facts_of
from engines.uniref.scenes import Scene, SceneMaker, Still, without_objects
from engines.uniref.text import Words
from engines.uniref.words import WORDS

HELD_OUT = 15
NATURAL = 0.4
_LONG_SIDE = 320


def read_stills(folder: Path) -> list[Still]:
    """`images/STEM.*` beside `masks/STEM.png`, at most 320 pixels long; `bsds…` holds regions, not objects."""
    stills = []
    for path in sorted((folder / "images").iterdir()):
        if path.stem.startswith("bsds"):
            continue
        image = Image.open(path).convert("RGB")
        scale = min(1.0, _LONG_SIDE / max(image.size))
        size = (round(image.width * scale), round(image.height * scale))
        frame = np.asarray(image.resize(size, Image.Resampling.BOX))
        labels = Image.open(folder / "masks" / f"{path.stem}.png").resize(size, Image.Resampling.NEAREST)
        stills.append(Still(path.stem, frame, np.asarray(labels)))
    return stills


def split(stills: list[Still]) -> tuple[list[Still], list[Still]]:
    """Those to train on, and those held out."""
    return [still for i, still in enumerate(stills) if i % HELD_OUT], stills[::HELD_OUT]


def halves(held_out: list[Still]) -> tuple[list[Still], list[Still]]:
    """Of the held-out ones, those that choices are made on, and those that results are reported on."""
    return held_out[::2], held_out[1::2]


def maker(stills: list[Still], natural: float = NATURAL) -> SceneMaker:
    """Scenes of these stills alone. natural: share of scenes that are a still as it is."""
    backgrounds = [without_objects(still) for still in stills if (still.labels > 0).mean() < 0.4]
    return SceneMaker(stills, backgrounds, natural=natural)


@dataclass(frozen=True)
class Example:
    """One scene, and texts that mean one of its objects each. targets: index into masks. kinds: of each text."""

    frame: Frame
    masks: Masks
    targets: tuple[int, ...]
    texts: tuple[str, ...]
    kinds: tuple[str, ...]


def draw_example(scenes: SceneMaker, size: Size, per: int, random: np.random.Generator) -> Example:
    """A scene with `per` expressions, different objects first; scenes of which too little can be said are passed."""
    while True:
        scene = scenes.draw(size, random)
        found = _said_of(scene, random, per)
        if found:
            targets, texts, kinds = zip(*found, strict=True)
            return Example(scene.frame, scene.masks, targets, texts, kinds)


def _said_of(scene: Scene, random: np.random.Generator, per: int) -> list[tuple[int, str, str]]:
    facts = facts_of(scene.frame, scene.masks)
    found: list[tuple[int, str, str]] = []
    for turn in range(3 * per):
        index = int(random.integers(len(facts))) if turn >= len(facts) else turn
        said = express(facts, index, random)
        if said is not None:
            found.append((index, said.text, said.kind))
        if len(found) == per:
            return found
    return []


@dataclass(frozen=True)
class Batch:
    """images: B pictures. ids: [B * per, N] word ids, -1 is padding. masks: [B * per, H, W]. kinds: of each text."""

    images: list[Tensor]
    ids: Tensor
    masks: Tensor
    kinds: list[str]

    @property
    def per(self) -> int:
        """Texts per picture."""
        return len(self.masks) // len(self.images)


def to_batch_of(examples: list[Example]) -> Batch:
    """Examples of one size as tensors."""
    words = Words(WORDS, 32)
    texts = [words.tokenize(text).ids for example in examples for text in example.texts]
    longest = max(map(len, texts))
    return Batch(
        [torch.from_numpy(example.frame.copy()).permute(2, 0, 1) for example in examples],
        torch.tensor([[*text, *[-1] * (longest - len(text))] for text in texts]),
        torch.from_numpy(np.stack([example.masks[i] for example in examples for i in example.targets])).float(),
        [kind for example in examples for kind in example.kinds],
    )
