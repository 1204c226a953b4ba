"""Train `uniref-t` from scratch on generated scenes, and report its IoU per kind of expression on held-out pictures.

    python -m benchmarks.train_uniref_t --data DIR --out uniref-t.safetensors --minutes 40

DIR holds `images/STEM.jpg` beside `masks/STEM.png`. One picture in eight (by a hash of its name) is never trained on.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engines.types import Size
from engines.uniref.attributes import express, facts_of
from engines.uniref.config import VARIANTS
from engines.uniref.losses import LossWeights
from engines.uniref.model import Detections, UniRef
from engines.uniref.preprocess import to_batch
from engines.uniref.scenes import Scene, SceneMaker, Still, without_objects
from engines.uniref.text import Words
from engines.uniref.training import PseudoVideo, Targets, batch_losses, target_boxes
from engines.uniref.words import WORDS

SIZES = (Size(128, 224), Size(160, 160), Size(160, 224), Size(160, 288))
WARM_UP_STEPS = 200
LONG_SIDE = 320
MASK_EVERY = 5
REPORT_S = 420
SHOWN = ("label", "box", "giou", "mask", "dice", "dice.dense")


@dataclass(frozen=True)
class Batch:
    """images: B scenes. ids: [B * per, N] word ids, -1 is padding. masks: [B * per, H, W]. kinds: of each text."""

    images: list[Tensor]
    ids: Tensor
    masks: Tensor
    kinds: list[str]


def held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % 8 == 0


def read_stills(folder: Path) -> list[Still]:
    stills = []
    for path in sorted((folder / "images").iterdir()):
        if path.stem.startswith("bsds"):  # regions, not objects
            continue
        image = Image.open(path).convert("RGB")
        scale = min(1.0, LONG_SIDE / max(image.size))
        size = (round(image.width * scale), round(image.height * scale))
        frame = np.asarray(image.resize(size, Image.Resampling.BOX))
        labels = Image.open(folder / "masks" / f"{path.stem}.png").resize(size, Image.Resampling.NEAREST)
        stills.append(Still(path.stem, frame, np.asarray(labels)))
    return stills


def maker(stills: list[Still], natural: float = 0.4) -> SceneMaker:
    backgrounds = [without_objects(still) for still in stills if (still.labels > 0).mean() < 0.4]
    return SceneMaker(stills, backgrounds, natural=natural)


def scene_samples(scene: Scene, random: np.random.Generator, per: int) -> list[tuple[int, str, str]]:
    """`per` (object, text, kind), different objects first; empty if nothing can be said."""
    facts = facts_of(scene.frame, scene.masks)
    found: list[tuple[int, str, str]] = []
    for turn in range(3 * per):
        index = int(random.permutation(len(facts))[0]) if turn >= len(facts) else turn
        said = express(facts, index, random)
        if said is not None:
            found.append((index, said.text, said.kind))
        if len(found) == per:
            return found
    return []


def draw_batch(
    scenes: SceneMaker, count: int, per: int, random: np.random.Generator, size: Size | None = None
) -> Batch:
    size = size or SIZES[int(random.integers(len(SIZES)))]
    words = Words(WORDS, 32)
    images: list[Tensor] = []
    texts: list[tuple[int, ...]] = []
    masks: list[Tensor] = []
    kinds: list[str] = []
    while len(images) < count:
        scene = scenes.draw(size, random)
        samples = scene_samples(scene, random, per)
        if not samples:
            continue
        images.append(torch.from_numpy(scene.frame.copy()).permute(2, 0, 1))
        for index, text, kind in samples:
            texts.append(words.tokenize(text).ids)
            masks.append(torch.from_numpy(scene.masks[index]).float())
            kinds.append(kind)
    longest = max(map(len, texts))
    ids = torch.tensor([list(text) + [-1] * (longest - len(text)) for text in texts])
    return Batch(images, ids, torch.stack(masks), kinds)


def text_losses(model: UniRef, batch: Batch, device: torch.device, per: int) -> dict[str, Tensor]:
    features = model.encode_image(to_batch([image.to(device) for image in batch.images])).repeat(per)
    ids = batch.ids.to(device)
    reference = model.encode_text(ids.clamp(min=0), (ids >= 0).long())
    masks = batch.masks.to(device)
    detections = model.detect(features, [reference])
    return batch_losses(model, detections, Targets(target_boxes(masks), masks))


def mask_losses(model: UniRef, batch: Batch, device: torch.device, generator: torch.Generator) -> dict[str, Tensor]:
    """One object of every scene, its mask given in one warp of the scene, looked for in another."""
    per = len(batch.masks) // len(batch.images)
    pairs = []
    for image, mask in zip(batch.images, batch.masks[::per], strict=True):
        (first, shown), (second, goal) = PseudoVideo()(image.float(), mask[None], generator)
        if shown.sum() > 30 and goal.sum() > 30:
            pairs.append((first, shown, second, goal[0]))
    if not pairs:
        return {}
    support = model.encode_image(to_batch([pair[0].to(device) for pair in pairs]))
    reference = model.encode_masks(support, torch.stack([pair[1] for pair in pairs]).to(device))
    masks = torch.stack([pair[3] for pair in pairs]).to(device)
    detections = model.detect(model.encode_image(to_batch([pair[2].to(device) for pair in pairs])), [reference])
    return batch_losses(model, detections, Targets(target_boxes(masks), masks))


@torch.no_grad()
def predictions(model: UniRef, detections: Detections) -> dict[str, Tensor]:
    """Mask probabilities [B, H/4, W/4] by each way of reading the heads."""
    dense = model.mask_head.dense
    assert dense is not None
    dense_map = dense(detections.mask_features).squeeze(1).sigmoid()
    best = model.mask_logits(detections, detections.best()).sigmoid()
    count = detections.logits.shape[1]
    rows = torch.arange(len(best), device=best.device)
    all_masks = model.mask_head(detections.mask_features, detections.decoded.hidden[-1], detections.points).sigmoid()
    overlap = (all_masks * dense_map[:, None]).flatten(2).sum(-1)
    overlap = overlap / (all_masks + dense_map[:, None] - all_masks * dense_map[:, None]).flatten(2).sum(-1)
    ranked = (overlap * detections.logits.sigmoid()).argmax(1)
    assert count == all_masks.shape[1]
    return {"query": best, "dense": dense_map, "ranked": all_masks[rows, ranked], "mean": (best + dense_map) / 2}


@torch.no_grad()
def evaluate(model: UniRef, batches: list[Batch], device: torch.device) -> dict[str, dict[str, float]]:
    """Mean IoU by reading, then by kind of expression."""
    model.eval()
    scores: dict[str, dict[str, list[float]]] = {}
    for batch in batches:
        per = len(batch.masks) // len(batch.images)
        features = model.encode_image(to_batch([image.to(device) for image in batch.images])).repeat(per)
        ids = batch.ids.to(device)
        detections = model.detect(features, [model.encode_text(ids.clamp(min=0), (ids >= 0).long())])
        for reading, maps in predictions(model, detections).items():
            grown = nn.functional.interpolate(maps[:, None], batch.masks.shape[-2:], mode="bilinear")[:, 0].cpu() > 0.5
            truth = batch.masks > 0.5
            iou = (grown & truth).flatten(1).sum(1) / (grown | truth).flatten(1).sum(1)
            for kind, value in zip(batch.kinds, iou.tolist(), strict=True):
                scores.setdefault(reading, {}).setdefault(kind, []).append(value)
    model.train()
    means = {
        reading: {kind: float(np.mean(v)) for kind, v in sorted(kinds.items())} for reading, kinds in scores.items()
    }
    return {reading: {"mean": float(np.mean(list(kinds.values()))), **kinds} for reading, kinds in means.items()}


class Average:
    """Exponential moving average of weights; buffers are taken as they are."""

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)


def learning_rate(share: float, step: int, peak: float) -> float:
    """Warm-up, then a cosine to 1 % of the peak. share: of the time that is over."""
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(share, 1.0))))


def timed(minutes: float) -> Iterator[tuple[int, float]]:
    """Steps and the share of the time that is over."""
    step, share = 0, 0.0
    begun = time.monotonic()
    while share < 1:
        yield step, share
        step += 1
        share = (time.monotonic() - begun) / (60 * minutes)


def save(average: Average, path: Path, note: str) -> None:
    metadata = {"net_short_side": "160", "memorize_every": "1", "licence": "CC BY-NC 4.0", "training": note}
    save_file({name: value.contiguous().cpu() for name, value in average.state.items()}, path, metadata)


@dataclass
class Run:
    """Everything of one training run."""

    model: UniRef
    training: SceneMaker
    validation: list[Batch]
    device: torch.device
    options: argparse.Namespace

    def losses(self, step: int, random: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        batch = draw_batch(self.training, self.options.scenes, self.options.per, random)
        if step % MASK_EVERY == MASK_EVERY - 1:
            return mask_losses(self.model, batch, self.device, generator)
        return text_losses(self.model, batch, self.device, self.options.per)

    def train(self) -> None:
        options, average, weights = self.options, Average(self.model), LossWeights()
        random, generator = np.random.default_rng(options.seed), torch.Generator().manual_seed(options.seed)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.rate, weight_decay=0.05)
        last = time.monotonic()
        for step, share in timed(options.minutes):
            optimizer.param_groups[0]["lr"] = learning_rate(share, step, options.rate)
            parts = self.losses(step, random, generator)
            if not parts:
                continue
            optimizer.zero_grad(set_to_none=True)
            weights.total(parts).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            optimizer.step()
            average.update(self.model, step)
            if step % 50 == 0:
                shown = {name: round(float(parts[name].detach()), 3) for name in SHOWN}
                print(f"{step} share {share:.3f} {shown}", flush=True)
            if time.monotonic() - last > REPORT_S:
                last = time.monotonic()
                self.report(average, step)
        self.report(average, -1)

    def report(self, average: Average, step: int) -> None:
        model = UniRef(VARIANTS["uniref-t"], live_norm=True).to(self.device)
        model.load_state_dict(average.state)
        for reading, kinds in evaluate(model, self.validation, self.device).items():
            print(step, reading, {kind: round(value, 3) for kind, value in kinds.items()}, flush=True)
        save(average, self.options.out, f"step {step} of {self.options.minutes:g} minutes, seed {self.options.seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--scenes", type=int, default=6, help="pictures per step")
    parser.add_argument("--per", type=int, default=3, help="expressions per picture")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stills = read_stills(options.data)
    unseen, fixed = maker([still for still in stills if held_out(still.name)]), np.random.default_rng(123)
    model = UniRef(VARIANTS["uniref-t"], live_norm=True).to(device).train()
    if options.resume:
        model.load_state_dict(load_file(options.resume))
    training = maker([still for still in stills if not held_out(still.name)])
    Run(model, training, [draw_batch(unseen, 6, 3, fixed) for _ in range(20)], device, options).train()


if __name__ == "__main__":
    main()
