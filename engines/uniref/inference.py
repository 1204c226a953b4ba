"""From the network's output to masks: the published rules, task by task. Holds no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.types import Size
from engines.uniref.model import ImageFeatures, UniRef
from engines.uniref.preprocess import pad_masks, padded
from engines.uniref.unifusion import Reference

MASK_THRESHOLD = 0.5

VOS_SCORE_THRESHOLDS = {"davis": 0.3, "youtube-vos": 0.4, "mose": 0.4, "lvos": 0.5}
"""An object whose best query is not more likely than this is not in the frame; published, by data set."""

RVOS_SCORE_THRESHOLD = 0.3
"""The same for text in Ref-YouTube-VOS. Ref-DAVIS uses none."""


@dataclass(frozen=True)
class Geometry:
    """The sizes of one frame: as displayed (outer), at the network before padding (inner)."""

    outer: Size
    inner: Size

    @property
    def padded(self) -> Size:
        """Size of the network's input."""
        return padded(self.inner)


@dataclass(frozen=True)
class Finding:
    """The best query of each reference.

    logits: [B, H, W] mask logits at the padded network size. scores: [B] probability that the object is there.
    query: [B] its index. box: [B, 4] (cx, cy, w, h), 0..1 over the frame.
    """

    logits: Tensor
    scores: Tensor
    query: Tensor
    box: Tensor


def find(model: UniRef, features: ImageFeatures, references: Sequence[Reference], *, full_size: bool) -> Finding:
    """Find the one referred object of every batch entry.

    full_size: the enlargement of video object segmentation; otherwise plain bilinear, as for text and exemplars.
    Only one mask per reference is computed. The published NMS is left out: it never removes the best query.
    """
    detections = model.detect(features, references)
    query = detections.best()
    rows = torch.arange(len(query), device=query.device)
    logits = model.mask_logits(detections, query, full_size=full_size)
    if not full_size:
        whole = features.batch.pixels.shape[-2:]
        logits = F.interpolate(logits.unsqueeze(1), whole, mode="bilinear", align_corners=False).squeeze(1)
    return Finding(logits, detections.logits[rows, query].sigmoid(), query, detections.boxes[rows, query])


def probability_maps(logits: Tensor, geometry: Geometry) -> Tensor:
    """[B, H, W] padded logits to probabilities at the displayed size: sigmoid, crop, bilinear."""
    inner, outer = geometry.inner, geometry.outer
    inside = logits.float().sigmoid()[:, None, : inner.height, : inner.width]
    size = (outer.height, outer.width)
    return F.interpolate(inside, size, mode="bilinear", align_corners=False).squeeze(1)


def still_image_masks(logits: Tensor, geometry: Geometry) -> Tensor:
    """[B, H, W] padded logits to bool masks at the displayed size: threshold, crop, nearest (text, exemplar)."""
    inner, outer = geometry.inner, geometry.outer
    inside = logits[:, None, : inner.height, : inner.width].sigmoid() > MASK_THRESHOLD
    return F.interpolate(inside.float(), (outer.height, outer.width)).squeeze(1) > 0


def network_masks(masks: Tensor, geometry: Geometry) -> Tensor:
    """[n, H, W] masks at the displayed size to [n, 1, H', W'] at the padded network size: nearest, zeros outside."""
    inner = F.interpolate(masks.unsqueeze(1).float(), (geometry.inner.height, geometry.inner.width))
    return pad_masks(inner, geometry.padded)
