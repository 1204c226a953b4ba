"""SpatialEmbeddings as a proposer: one frame in, ranked masks out. Holds weights, nothing of any video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engines.checkpoint import Weights, load_checkpoint
from engines.prompts.grabcut import COARSE, mask_from_region
from engines.proposals.camera_motion import residual_motion
from engines.proposals.ranking import drop_repeats, rank
from engines.protocols import Proposal
from engines.spatial_embeddings.clustering import Instance, cluster, embed_pixels
from engines.spatial_embeddings.config import ClusterConfig
from engines.spatial_embeddings.model import BranchedERFNet
from engines.spatial_embeddings.weights import load_network
from engines.types import Frame, Size

_PUBLISHED_SHORT_SIDE = 1024
_PUBLISHED_PIXELS = 1024 * 2048
_FINER = (1.5, 2.0)


@dataclass(frozen=True)
class ProposeConfig:
    """net_short_side: pixels that frames are scaled down to. long_side: at most this many pixels, whatever the shape.

    refine_top: so many of the best proposals are redrawn along the picture's colours, for weights with coarse masks.
    finer: multiples of net_short_side at which smaller objects are looked for as well; what is found twice counts once.
    same_iou: from there on two masks are one object.
    cluster.min_pixels counts pixels of the network's size and is scaled with it from the published 1024 x 2048.
    """

    net_short_side: int
    long_side: int = 2048
    cluster: ClusterConfig = ClusterConfig(score_threshold=0.5)
    least_pixels: int = 24
    refine_top: int = 0
    finer: tuple[float, ...] = ()
    same_iou: float = 0.6


class SpatialEmbeddingsProposer:
    """Implements `ThoroughProposer`."""

    def __init__(self, network: BranchedERFNet, config: ProposeConfig, weights_sha256: str = "") -> None:
        self.network = network
        self.config = config
        self.weights_sha256 = weights_sha256

    def propose(self, frames: Sequence[Frame]) -> list[Proposal]:
        """Instances of the first frame by seed and area; by motion too where later frames show any."""
        size, motion = Size.of(frames[0]), residual_motion(frames)
        found: list[Proposal] = []
        for scale in (1.0, *self.config.finer):
            seen = self.instances(frames[0], round(scale * self.config.net_short_side))
            found += rank([Proposal(_to_frame(each.mask, size), each.score) for each in seen], motion)
        ranked = drop_repeats(found, self.config.same_iou)
        best, rest = ranked[: self.config.refine_top], ranked[self.config.refine_top :]
        redrawn = [Proposal(mask_from_region(frames[0], each.mask, COARSE), each.score) for each in best]
        return [*redrawn, *rest]

    def thorough(self) -> SpatialEmbeddingsProposer:
        """The same weights at three sizes."""
        return SpatialEmbeddingsProposer(self.network, replace(self.config, finer=_FINER), self.weights_sha256)

    @torch.inference_mode()
    def instances(self, frame: Frame, short_side: int | None = None) -> list[Instance]:
        """What the network finds, at its own size or another one, in order of discovery."""
        parameter = next(self.network.parameters())
        image, inner = network_input(
            frame, replace(self.config, net_short_side=short_side or self.config.net_short_side)
        )
        maps: Tensor = self.network(image.to(parameter.device, parameter.dtype))
        maps = maps[0, :, : inner.height, : inner.width].float()
        share = inner.height * inner.width / _PUBLISHED_PIXELS
        least = max(self.config.least_pixels, round(self.config.cluster.min_pixels * share))
        embedding = embed_pixels(maps, self.network.config.num_sigmas, step=self.network.config.grid_step)
        return cluster(embedding, replace(self.config.cluster, min_pixels=least))


def network_input(frame: Frame, config: ProposeConfig) -> tuple[Tensor, Size]:
    """[1, 3, h, w] RGB in 0..1, padded to multiples of 8 at the right and bottom; and its size without the padding."""
    height, width = frame.shape[:2]
    scale = min(1.0, config.net_short_side / min(height, width), config.long_side / max(height, width))
    inner = Size(max(8, round(height * scale)), max(8, round(width * scale)))
    # a copy: decoded frames may be read-only, which torch will not take
    image = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 255.0
    if (inner.height, inner.width) != (height, width):
        target = (inner.height, inner.width)
        image = F.interpolate(image, target, mode="bilinear", align_corners=False, antialias=scale < 1.0)
    padding = (0, -inner.width % 8, 0, -inner.height % 8)
    return F.pad(image, padding, mode="replicate"), inner


def _to_frame(mask: Tensor, size: Size) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """A mask of the network's size at the frame's size, with smooth edges."""
    soft = F.interpolate(mask[None, None].float(), (size.height, size.width), mode="bilinear", align_corners=False)
    return (soft[0, 0] >= 0.5).cpu().numpy()


def build_proposer(name: str, *, weights: Weights, device: torch.device) -> SpatialEmbeddingsProposer:
    """Load the network. A starter's file says at which size to serve it and how many masks to redraw.

    Raises WeightsError.
    """
    checkpoint = load_checkpoint(weights, name)
    network = load_network(checkpoint).to(device)
    side = checkpoint.integer("net_short_side", _PUBLISHED_SHORT_SIDE)
    config = ProposeConfig(net_short_side=side, refine_top=checkpoint.integer("refine_top", 0))
    return SpatialEmbeddingsProposer(network, config, checkpoint.sha256)
