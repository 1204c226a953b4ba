"""Sine encodings of places and boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine(coordinates: Tensor, width: int) -> Tensor:
    """[...] angles to [..., width]: sine and cosine by turns, wavelengths from 2 pi to 20000 pi."""
    index = torch.arange(width, dtype=torch.float32, device=coordinates.device)
    scaled = coordinates.unsqueeze(-1) / 10000 ** (2 * (index // 2) / width)
    return torch.stack((scaled[..., 0::2].sin(), scaled[..., 1::2].cos()), -1).flatten(-2)


def position_encoding(padding: Tensor, dim: int) -> Tensor:
    """[B, H, W] padding (True = padding) to [B, dim, H, W]: half for y, then half for x.

    Coordinates are cell centres over the valid size, so equal places of differently padded images look equal.
    """
    valid = (~padding).float()
    encoded = []
    for axis in (1, 2):
        count = valid.cumsum(axis)
        last = count.select(axis, -1).unsqueeze(axis)
        encoded.append(sine((count - 0.5) / (last + 1e-6) * (2 * math.pi), dim // 2))
    return torch.cat(encoded, -1).permute(0, 3, 1, 2)


def coordinates(padding: Tensor) -> Tensor:
    """[B, H, W] padding (True = padding) to [B, 2, H, W]: x and y of every cell's centre, -1..1 over the valid size."""
    valid = (~padding).float()
    found = []
    for axis in (2, 1):
        count = valid.cumsum(axis)
        last = count.select(axis, -1).unsqueeze(axis)
        found.append(2 * (count - 0.5) / (last + 1e-6) - 1)
    return torch.stack(found, 1)
