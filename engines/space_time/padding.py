"""Network size of a frame: shrunk to the short side the weights want, padded with zeros to whole stride cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.space_time.encoders import STRIDE
from engines.types import Frame, LabelMap, Size


@dataclass(frozen=True)
class Geometry:
    """How frames of one track become network input.

    shown: size of frames and label maps. inner: size after shrinking (never enlarged). padded: inner, filled up to a
    multiple of the stride on both sides, the smaller half first (published).
    """

    shown: Size
    inner: Size
    padded: Size

    @classmethod
    def of(cls, size: Size, short_side: int) -> Geometry:
        """The geometry of frames of `size` for weights trained at `short_side`."""
        scale = min(1.0, short_side / min(size.height, size.width))
        inner = Size(max(1, round(size.height * scale)), max(1, round(size.width * scale)))
        return cls.of_inner(size, inner)

    @classmethod
    def of_inner(cls, size: Size, inner: Size) -> Geometry:
        """The geometry of frames of `size` that the network sees at `inner`, padded."""
        return cls(size, inner, Size(_whole_cells(inner.height), _whole_cells(inner.width)))

    @property
    def cells(self) -> int:
        """Stride cells of the padded frame: memory tokens per frame and channel."""
        return self.padded.height * self.padded.width // STRIDE**2

    @property
    def cell_px(self) -> float:
        """Area of one stride cell in pixels of the shown frame."""
        return STRIDE**2 * self.shown.height * self.shown.width / (self.inner.height * self.inner.width)

    @property
    def _border(self) -> tuple[int, int, int, int]:
        high, wide = self.padded.height - self.inner.height, self.padded.width - self.inner.width
        return (wide // 2, wide - wide // 2, high // 2, high - high // 2)

    def frame(self, frame: Frame, device: torch.device) -> Tensor:
        """[1, 3, Hp, Wp] float32 in 0..1, padded."""
        x = torch.from_numpy(frame).to(device).permute(2, 0, 1)[None].float() / 255.0
        if self.inner != self.shown:
            shape = (self.inner.height, self.inner.width)
            x = F.interpolate(x, shape, mode="bilinear", align_corners=False, antialias=True)
        return F.pad(x, self._border)

    def one_hot(self, label_map: LabelMap, ids: Sequence[int], device: torch.device) -> Tensor:
        """[K+1, h, w] float32 in 0..1 at inner size: background, then `ids`; shares of a cell where frames shrink.

        Pixels of the ignore label belong to no channel.
        """
        labels = torch.from_numpy(label_map).to(device)
        x = (labels[None] == torch.tensor([0, *ids], device=device)[:, None, None]).float()
        if self.inner == self.shown:
            return x
        return F.interpolate(x[None], (self.inner.height, self.inner.width), mode="area")[0]

    def pad(self, maps: Tensor) -> Tensor:
        """[..., h, w] at inner size to [..., Hp, Wp], filled with zeros."""
        return F.pad(maps, self._border)

    def crop(self, maps: Tensor) -> Tensor:
        """[..., Hp, Wp] to [..., h, w]."""
        left, right, top, bottom = self._border
        return maps[..., top : self.padded.height - bottom, left : self.padded.width - right]

    def show(self, probability: Tensor) -> Tensor:
        """[C, h, w] at inner size to [C, H, W] as shown."""
        if self.inner == self.shown:
            return probability
        shape = (self.shown.height, self.shown.width)
        return F.interpolate(probability[None], shape, mode="bilinear", align_corners=False)[0]


def _whole_cells(pixels: int) -> int:
    return -(-pixels // STRIDE) * STRIDE
