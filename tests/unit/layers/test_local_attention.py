"""Window attention against a loop over positions in float64, for one band and for many, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engines.layers.local_attention import WindowBias, local_attend

HEADS, KEY, VALUE = 2, 4, 3


def _oracle(
    q: Tensor, frames: list[tuple[Tensor, Tensor]], bias: WindowBias, grid: tuple[int, int], radius: int
) -> Tensor:
    """One sample: q [N, heads * d], frames of ([N, heads * d], [N, heads * dv]); literally the definition."""
    (h, w), width = grid, 2 * radius + 1
    out = torch.zeros(h * w, HEADS * VALUE, dtype=torch.float64)
    for n in range(h * w):
        y, x = divmod(n, w)
        for head in range(HEADS):
            query = q[n].view(HEADS, KEY)[head]
            scores, values = [], []
            for keys, vals in frames:
                for dy in range(-radius, radius + 1):
                    for dx in range(-radius, radius + 1):
                        if not (0 <= y + dy < h and 0 <= x + dx < w):
                            continue
                        at, offset = (y + dy) * w + x + dx, (dy + radius) * width + dx + radius
                        score = query @ keys[at].view(HEADS, KEY)[head] / math.sqrt(KEY)
                        scores.append(score + bias.logit[head, n, offset])
                        value = vals[at].view(HEADS, VALUE)[head]
                        values.append(value if bias.value is None else value + bias.value[head, :, offset])
            weights = torch.softmax(torch.stack(scores), dim=0)
            out[n, head * VALUE : (head + 1) * VALUE] = weights @ torch.stack(values)
    return out


def _inputs(
    grid: tuple[int, int], radius: int, frames: int, *, relative_value: bool
) -> tuple[Tensor, list[Tensor], list[Tensor], WindowBias]:
    random = torch.Generator().manual_seed(grid[0] * 100 + grid[1])

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    n, offsets = grid[0] * grid[1], (2 * radius + 1) ** 2
    keys = [noise(2, n, HEADS * KEY) for _ in range(frames)]
    values = [noise(2, n, HEADS * VALUE) for _ in range(frames)]
    bias = WindowBias(noise(2, HEADS, n, offsets), noise(HEADS, VALUE, offsets) if relative_value else None)
    return noise(2, n, HEADS * KEY), keys, values, bias


@pytest.mark.parametrize("dense_tokens", [640, 0])
@pytest.mark.parametrize(
    ("grid", "radius", "frames"), [((5, 7), 2, 1), ((9, 17), 3, 1), ((1, 3), 7, 1), ((10, 9), 1, 2)]
)
def test_equals_the_definition(
    grid: tuple[int, int], radius: int, frames: int, dense_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.layers.local_attention.DENSE_TOKENS", dense_tokens)
    monkeypatch.setattr("engines.layers.local_attention.TILE_ROWS", 3)
    monkeypatch.setattr("engines.layers.local_attention.TILE_COLUMNS", 4)
    query, keys, values, bias = _inputs(grid, radius, frames, relative_value=frames == 1)
    ours = local_attend(query, keys, values, bias, grid=grid, heads=HEADS)
    for sample in range(2):
        memory = [(k[sample], v[sample]) for k, v in zip(keys, values, strict=True)]
        one = WindowBias(bias.logit[sample], bias.value)
        expected = _oracle(query[sample], memory, one, grid, radius)
        torch.testing.assert_close(ours[sample], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dense_tokens", [640, 0])
def test_gradient_is_right_in_both_forms(dense_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.layers.local_attention.DENSE_TOKENS", dense_tokens)
    monkeypatch.setattr("engines.layers.local_attention.TILE_ROWS", 2)
    monkeypatch.setattr("engines.layers.local_attention.TILE_COLUMNS", 4)
    query, keys, values, bias = _inputs((3, 3), 1, 1, relative_value=True)
    inputs = [x[:1].requires_grad_() for x in (query, keys[0], values[0], bias.logit)]

    def run(q: Tensor, k: Tensor, v: Tensor, logit: Tensor) -> Tensor:
        return local_attend(q, [k], [v], WindowBias(logit, bias.value), grid=(3, 3), heads=HEADS)

    assert torch.autograd.gradcheck(run, inputs)
