"""Train `uniref-t` on generated scenes, and report its IoU per kind of expression on held-out pictures.

    python -m benchmarks.train_uniref_t --data DIR --out FOLDER --trunk deaot-t.safetensors --minutes 80

DIR holds `images/STEM.jpg` beside `masks/STEM.png`. FOLDER gets checkpoint.pt every minute, and uniref-t.safetensors.
A run that was ended, by SIGTERM too, goes on from its checkpoint when started again; its clock is wall time.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.expressions import Batch, draw_example, maker, read_stills, split, to_batch_of
from engines.checkpoint import load_checkpoint
from engines.training.export import WeightsFacts, export_weights
from engines.types import Size
from engines.uniref.config import VARIANTS
from engines.uniref.losses import LossWeights
from engines.uniref.model import Detections, UniRef
from engines.uniref.preprocess import to_batch
from engines.uniref.scenes import SceneMaker
from engines.uniref.training import PseudoVideo, Targets, batch_losses, target_boxes

SIZES = (Size(128, 128), Size(128, 160), Size(128, 192), Size(128, 224))
SHORT_SIDE = 128
WARM_UP_STEPS = 200
MASK_EVERY = 5
TRUNK_RATE = 0.3
DENSE_WEIGHT = 2.0
REPORT_S, CHECKPOINT_S = 420, 60
SHOWN = ("label", "box", "giou", "mask", "dice", "mask.dense", "dice.dense")


def draw_batch(scenes: SceneMaker, options: argparse.Namespace, random: np.random.Generator) -> Batch:
    """Scenes of one size."""
    size = SIZES[int(random.integers(len(SIZES)))]
    return to_batch_of([draw_example(scenes, size, options.per, random) for _ in range(options.scenes)])


def detect(model: UniRef, batch: Batch, device: torch.device) -> Detections:
    """What the network makes of every text."""
    features = model.encode_image(to_batch([image.to(device) for image in batch.images])).repeat(batch.per)
    ids = batch.ids.to(device)
    return model.detect(features, [model.encode_text(ids.clamp(min=0), (ids >= 0).long())])


def text_losses(model: UniRef, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Losses of all texts of a batch."""
    masks = batch.masks.to(device)
    return batch_losses(model, detect(model, batch, device), Targets(target_boxes(masks), masks))


def mask_losses(model: UniRef, batch: Batch, device: torch.device, generator: torch.Generator) -> dict[str, Tensor]:
    """One object of every scene, its mask given in one warp of the scene, looked for in another."""
    pairs = []
    for image, mask in zip(batch.images, batch.masks[:: batch.per], strict=True):
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


def predictions(model: UniRef, detections: Detections) -> dict[str, Tensor]:
    """Mask probabilities [B, H/4, W/4] by each way of reading the heads."""
    if model.mask_head.dense is None:
        raise ValueError("the network has no dense head")
    dense = model.mask_head.dense(detections.mask_features).squeeze(1).sigmoid()
    best = model.mask_logits(detections, detections.best()).sigmoid()
    return {"query": best, "dense": dense, "mean": (best + dense) / 2}


@torch.no_grad()
def evaluate(model: UniRef, batches: list[Batch], device: torch.device) -> dict[str, dict[str, float]]:
    """Mean IoU by reading, then by kind of expression."""
    model.eval()
    scores: dict[str, dict[str, list[float]]] = {}
    for batch in batches:
        truth = batch.masks > 0.5
        for reading, maps in predictions(model, detect(model, batch, device)).items():
            grown = nn.functional.interpolate(maps[:, None], truth.shape[-2:], mode="bilinear")[:, 0].cpu() > 0.5
            iou = (grown & truth).flatten(1).sum(1) / (grown | truth).flatten(1).sum(1)
            for kind, value in zip(batch.kinds, iou.tolist(), strict=True):
                scores.setdefault(reading, {}).setdefault(kind, []).append(value)
    means = {
        reading: {kind: float(np.mean(v)) for kind, v in sorted(kinds.items())} for reading, kinds in scores.items()
    }
    return {reading: {"mean": float(np.mean(list(kinds.values()))), **kinds} for reading, kinds in means.items()}


def from_trunk(model: UniRef, tensors: Mapping[str, Tensor]) -> int:
    """Take a light engine's trunk over where names and shapes agree; how many tensors did."""
    own = model.state_dict()
    taken = 0
    for name, value in tensors.items():
        name = name.replace("encoder.features.", "backbone.features.")
        if name.startswith("backbone.") and name in own and own[name].shape == value.shape:
            own[name].copy_(value)
            taken += 1
    return taken


def learning_rate(share: float, step: int, peak: float) -> float:
    """Warm-up, then a cosine to 1 % of the peak. share: of the time that is over."""
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(share, 1.0))))


@dataclass
class Run:
    """Everything of one training run that a checkpoint has to keep, and what it is trained and judged on."""

    model: UniRef
    options: argparse.Namespace
    device: torch.device
    training: SceneMaker
    validation: list[Batch]

    def __post_init__(self) -> None:
        own = [value for name, value in self.model.named_parameters() if not name.startswith("backbone.features.")]
        trunk = list(self.model.backbone.get_submodule("features").parameters())
        groups = [{"params": own, "scale": 1.0}, {"params": trunk, "scale": TRUNK_RATE}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.options.rate, weight_decay=0.05)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.step, self.begun, self.stop = 0, time.time(), False
        self.path = self.options.out / "checkpoint.pt"
        if self.path.is_file():
            self._load(torch.load(self.path, map_location="cpu", weights_only=True))
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self.stop = True

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.step, self.begun = state["step"], state["begun"]

    def save(self) -> None:
        """A reader sees the old checkpoint or the new one, never half."""
        partial = self.path.with_suffix(".partial")
        state = {"net": self.model.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "step": self.step, "begun": self.begun}, partial)
        partial.replace(self.path)

    def train(self) -> None:
        """Until the time is over or SIGTERM; reports and writes the weights at the end."""
        reported = saved = time.monotonic()
        share = 0.0
        while not self.stop and (share := (time.time() - self.begun) / (60 * self.options.minutes)) < 1:
            self._advance(share)
            if time.monotonic() - saved > CHECKPOINT_S:
                saved = time.monotonic()
                self.save()
            if time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                self.report()
        self.save()
        self.report()

    def _advance(self, share: float) -> None:
        # Everything random is a function of the step, so a resumed run sees what an unbroken one would.
        random = np.random.default_rng((self.options.seed, self.step))
        batch = draw_batch(self.training, self.options, random)
        if self.step % MASK_EVERY == MASK_EVERY - 1:
            parts = mask_losses(self.model, batch, self.device, torch.Generator().manual_seed(self.step))
        else:
            parts = text_losses(self.model, batch, self.device)
        if parts:
            self._descend(parts, share)
        self.step += 1
        if self.step % 50 == 1:
            shown = {name: round(float(parts[name].detach()), 3) for name in SHOWN if name in parts}
            print(f"{self.step - 1} share {share:.3f} {shown}", flush=True)

    def _descend(self, parts: dict[str, Tensor], share: float) -> None:
        weights = LossWeights()
        dense = {name: part for name, part in parts.items() if name.endswith(".dense")}
        total = weights.total(parts) + (DENSE_WEIGHT - 1) * weights.total(dense)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(share, self.step, self.options.rate) * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
        decay = min(0.998, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name].copy_(value)

    def report(self) -> None:
        """IoU on the held-out pictures, and the averaged weights as the file that engines load."""
        model = UniRef(VARIANTS["uniref-t"], live_norm=True).to(self.device)
        model.load_state_dict(self.average)
        for reading, kinds in evaluate(model, self.validation, self.device).items():
            print(self.step, reading, {kind: round(value, 3) for kind, value in kinds.items()}, flush=True)
        made = f"generated scenes, {self.step} steps of {self.options.scenes} pictures, seed {self.options.seed}"
        facts = WeightsFacts("uniref-t", SHORT_SIDE, 1, made)
        export_weights(self.average, self.options.out / "uniref-t.safetensors", facts)


def main() -> None:
    """Read the pictures, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trunk", type=Path, help="weights of an engine on the same trunk to begin with")
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--scenes", type=int, default=6, help="pictures per step")
    parser.add_argument("--per", type=int, default=3, help="expressions per picture")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = UniRef(VARIANTS["uniref-t"], live_norm=True).train()
    if options.trunk is not None:
        taken = from_trunk(model, load_checkpoint(options.trunk, "deaot-t").tensors)
        print(f"{taken} tensors taken from {options.trunk.name}", flush=True)
    seen, unseen = split(read_stills(options.data))
    fixed, scenes = np.random.default_rng(123), maker(unseen)
    validation = [draw_batch(scenes, options, fixed) for _ in range(20)]
    Run(model.to(device), options, device, maker(seen), validation).train()


if __name__ == "__main__":
    main()
