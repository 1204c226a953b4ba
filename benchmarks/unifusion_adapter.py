"""Teach a frozen segmenter to follow an exemplar: UniFusion as a plug-in, end to end in under a minute on a CPU.

    python -m benchmarks.unifusion_adapter

The host finds every shape of a picture. With UniFusion between its encoder and decoder it finds only those of the
colour that is marked in another picture, while its own encoder stays as it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.uniref.adapter import AdaptedSegmenter

SIDE = 32
WIDTH = 32


class ShapeFinder(nn.Module):
    """The host: a small encoder at strides 2 and 4, and a decoder to one mask of all shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(2 * WIDTH, WIDTH, 3, 1, 1), nn.ReLU(), nn.Conv2d(WIDTH, 1, 1))

    def encode(self, images: Tensor) -> Sequence[Tensor]:
        fine = self.fine(images)
        return fine, self.coarse(fine)

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        fine, coarse = levels
        joined = torch.cat((fine, F.interpolate(coarse, scale_factor=2.0)), 1)
        grown: Tensor = F.interpolate(self.head(joined), scale_factor=2.0, mode="bilinear")
        return grown

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, S, S] with one red and one green square, and their masks [B, 2, S, S]."""
    images = 0.3 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    masks = torch.zeros(count, 2, SIDE, SIDE)
    for picture in range(count):
        halves = torch.randperm(2, generator=generator).tolist()
        for colour, half in enumerate(halves):
            side = int(torch.randint(7, 12, (), generator=generator))
            x = half * SIDE // 2 + int(torch.randint(0, SIDE // 2 - side, (), generator=generator))
            y = int(torch.randint(0, SIDE - side, (), generator=generator))
            masks[picture, colour, y : y + side, x : x + side] = 1
            images[picture, :, y : y + side, x : x + side] *= 0.5
            images[picture, colour, y : y + side, x : x + side] += 0.7
    return images, masks


def overlap(logits: Tensor, masks: Tensor) -> float:
    found, truth = logits > 0, masks > 0.5
    return float(((found & truth).flatten(1).sum(1) / (found | truth).flatten(1).sum(1)).mean())


def train_host(steps: int, generator: torch.Generator) -> ShapeFinder:
    host = ShapeFinder()
    optimizer = torch.optim.Adam(host.parameters(), 1e-2)
    for _ in range(steps):
        images, masks = draw(16, generator)
        loss = F.binary_cross_entropy_with_logits(host(images), masks.amax(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return host.eval()


def question(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, exemplars, the mask of one colour in the exemplar, and of the same colour in the image."""
    images, goals = draw(count, generator)
    exemplars, marks = draw(count, generator)
    colour = torch.randint(0, 2, (count,), generator=generator)
    rows = torch.arange(count)
    return images, exemplars, marks[rows, colour].unsqueeze(1), goals[rows, colour].unsqueeze(1)


def train_adapter(adapted: AdaptedSegmenter, steps: int, generator: torch.Generator) -> None:
    optimizer = torch.optim.Adam(adapted.learning(), 5e-3)
    adapted.train()
    for _ in range(steps):
        images, exemplars, marks, goals = question(16, generator)
        loss = F.binary_cross_entropy_with_logits(adapted(images, exemplars, marks), goals)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    adapted.eval()


def run(host_steps: int, adapter_steps: int, seed: int = 0) -> dict[str, float]:
    """Mean IoU with the marked colour's square: of the host, and of the adapted host before and after training."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    host = train_host(host_steps, generator)
    adapted = AdaptedSegmenter(host, (WIDTH, WIDTH), heads=("head.",)).eval()
    images, exemplars, marks, goals = question(64, torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        scores = {"host": overlap(host(images), goals), "before": overlap(adapted(images, exemplars, marks), goals)}
    train_adapter(adapted, adapter_steps, generator)
    with torch.no_grad():
        scores["after"] = overlap(adapted(images, exemplars, marks), goals)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host-steps", type=int, default=60)
    parser.add_argument("--adapter-steps", type=int, default=200)
    options = parser.parse_args()
    print(json.dumps(run(options.host_steps, options.adapter_steps)))


if __name__ == "__main__":
    main()
