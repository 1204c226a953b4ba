"""From raw maps to instances. Pure tensor functions: no network, no image, no file.

A pixel's embedding is its position plus its offset; an instance is all pixels whose embedding lies within the margin
that the instance's own sigma draws around its centre.
Source: SpatialEmbeddings, Neven et al. 2019, section 3 (checked by tests/parity/spatial_embeddings).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.spatial_embeddings.config import PUBLISHED, ClusterConfig

SIGMA_SCALE = 10.0
_MARGIN = math.log(2.0)  # exp(-d) > 0.5 holds where d < ln 2


@dataclass(frozen=True)
class PixelEmbedding:
    """What one image's raw maps mean.

    position: [2, H, W] embedding (x, y) in grid units. sigma: [num_sigmas, H, W] raw, precision is exp(10 * sigma).
    seed: [num_classes, H, W] probability of lying at an instance's centre.
    """

    position: Tensor
    sigma: Tensor
    seed: Tensor


@dataclass(frozen=True)
class Instance:
    """One found object: [H, W] bool mask, its seed's probability, and the class whose seed map it came from."""

    mask: Tensor
    score: float
    class_index: int


def coordinate_map(
    height: int, width: int, *, step: tuple[float, float] = PUBLISHED.grid_step, device: torch.device | None = None
) -> Tensor:
    """[2, H, W] float32: x and y of each pixel in grid units, from 0 at the top left, whatever the image's size."""
    x = torch.arange(width, device=device, dtype=torch.float32) * step[0]
    y = torch.arange(height, device=device, dtype=torch.float32) * step[1]
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def embed_pixels(maps: Tensor, num_sigmas: int, *, step: tuple[float, float] = PUBLISHED.grid_step) -> PixelEmbedding:
    """Read the raw maps [2 + num_sigmas + num_classes, H, W] of one image."""
    height, width = maps.shape[-2:]
    grid = coordinate_map(height, width, step=step, device=maps.device)
    return PixelEmbedding(
        position=torch.tanh(maps[:2]) + grid,
        sigma=maps[2 : 2 + num_sigmas],
        seed=torch.sigmoid(maps[2 + num_sigmas :]),
    )


def _distance(position: Tensor, centre: Tensor, sigma: Tensor) -> Tensor:
    """[N] squared distance of positions [2, N] to a centre [2] in units of the margin that sigma [num_sigmas] sets."""
    precision = torch.exp(SIGMA_SCALE * sigma)[:, None]
    return ((position - centre[:, None]).square() * precision).sum(0)


@dataclass
class _Candidates:
    """The pixels above the seed threshold, strongest first, and which of them are taken."""

    position: Tensor  # [2, N]
    sigma: Tensor  # [num_sigmas, N]
    score: Tensor  # [N]
    pixel: Tensor  # [N] index into the flattened image
    free: Tensor  # [N] bool

    @classmethod
    def of(cls, embedding: PixelEmbedding, class_index: int, threshold: float) -> _Candidates:
        seed = embedding.seed[class_index].flatten()
        pixel = torch.nonzero(seed > threshold).squeeze(1)
        pixel = pixel[torch.sort(seed[pixel], descending=True, stable=True).indices]
        return cls(
            embedding.position.flatten(1)[:, pixel],
            embedding.sigma.flatten(1)[:, pixel],
            seed[pixel],
            pixel,
            torch.ones_like(pixel, dtype=torch.bool),
        )

    def members(self, index: int, config: ClusterConfig) -> Tensor:
        """[N] bool: the candidates within the margin of candidate `index`."""
        inside = _distance(self.position, self.position[:, index], self.sigma[:, index]) < _MARGIN
        if config.centre == "mean" and bool(inside.any()):
            centre = self.position[:, inside].mean(1)
            inside = _distance(self.position, centre, self.sigma[:, inside].mean(1)) < _MARGIN
        return inside


def _cluster_class(embedding: PixelEmbedding, class_index: int, config: ClusterConfig) -> list[Instance]:
    found = _Candidates.of(embedding, class_index, config.seed_threshold)
    instances: list[Instance] = []
    shape = embedding.seed.shape[-2:]
    rounds = 0
    index = 0
    # the published search looks again only while more than min_pixels candidates are free
    while int(found.free.sum()) > config.min_pixels and (config.max_rounds is None or rounds < config.max_rounds):
        rounds += 1
        index += int(found.free[index:].to(torch.uint8).argmax())  # strongest that is free; all before it are taken
        score = float(found.score[index])
        if score < config.score_threshold:
            break
        found.free[index] = False  # the seed itself never counts as fresh
        inside = found.members(index, config)
        count = int(inside.sum())
        if count > config.min_pixels and int((found.free & inside).sum()) / count > config.min_fresh:
            mask = torch.zeros(shape, dtype=torch.bool, device=inside.device)
            mask.view(-1)[found.pixel[inside]] = True
            instances.append(Instance(mask, score, class_index))
        found.free &= ~inside
    return instances


def cluster(embedding: PixelEmbedding, config: ClusterConfig) -> list[Instance]:
    """Instances in order of discovery, class by class: the strongest free seed gathers all within its own margin.

    Masks may overlap. One pass over the candidate tensors per seed tried; pixels are never looped over.
    """
    found: list[Instance] = []
    for class_index in range(embedding.seed.shape[0]):
        found.extend(_cluster_class(embedding, class_index, config))
    return found


def instance_map(instances: list[Instance], height: int, width: int) -> Tensor:
    """[H, W] uint8: ids from 1 in order of discovery, later ones on top. Raises ValueError over 255 instances."""
    if len(instances) > 255:
        raise ValueError(f"{len(instances)} instances do not fit a uint8 map; at most 255 do")
    result = torch.zeros(height, width, dtype=torch.uint8)
    for number, instance in enumerate(instances, start=1):
        result[instance.mask.cpu()] = number
    return result


def cluster_by_truth(embedding: PixelEmbedding, truth: Tensor) -> Tensor:
    """[H, W] map when the true instances [H, W] give centres and sigmas: what the embedding alone can reach.

    Every pixel may be a member; ids ascend and later ones lie on top.
    """
    position, sigma = embedding.position.flatten(1), embedding.sigma.flatten(1)
    flat = truth.flatten()
    result = torch.zeros_like(flat)
    for value in torch.unique(flat).tolist():
        if value == 0:
            continue
        inside = flat == value
        margin = _distance(position, position[:, inside].mean(1), sigma[:, inside].mean(1))
        result[margin < _MARGIN] = value
    return result.view_as(truth)
