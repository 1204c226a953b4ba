"""Swin's windows against the definition in float64, its maps' shapes and its published names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engines.aot.weights import variant_shapes
from engines.layers.swin import SWIN_L, PatchMerging, SwinBlock, SwinConfig, SwinTransformer


def _oracle(block: SwinBlock, x: Tensor) -> Tensor:
    """The attention branch of one block, position by position; x: [H, W, C], sides multiples of the window."""
    (h, w, width), window, shift = x.shape, block.window, block.shift
    attn, heads = block.attn, block.attn.heads
    d = width // heads
    q, k, v = (t.view(h, w, heads, d) for t in attn.qkv(x).split(width, dim=-1))
    out = torch.zeros(h, w, heads, d, dtype=x.dtype)

    def place(y: int, x: int) -> tuple[tuple[int, int], tuple[bool, bool]]:
        """The window of a position after the shift, and on which side of the seam it lay."""
        return ((y - shift) % h // window, (x - shift) % w // window), (y < shift, x < shift)

    for y in range(h):
        for c in range(w):
            keys = [(i, j) for i in range(h) for j in range(w) if place(i, j)[0] == place(y, c)[0]]
            for head in range(heads):
                scores = []
                for i, j in keys:
                    dy, dx = (y - shift) % h - (i - shift) % h, (c - shift) % w - (j - shift) % w
                    row = (dy + window - 1) * (2 * window - 1) + dx + window - 1
                    score = q[y, c, head] @ k[i, j, head] / math.sqrt(d) + attn.relative_position_bias_table[row, head]
                    scores.append(score if place(i, j)[1] == place(y, c)[1] else score - 100)
                weights = torch.softmax(torch.stack(scores), dim=0)
                out[y, c, head] = weights @ torch.stack([v[i, j, head] for i, j in keys])
    return attn.proj(out.flatten(2))


@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention_equals_the_definition(shifted: bool) -> None:
    torch.manual_seed(0)
    block = SwinBlock(4, 2, 3, shifted=shifted, drop_path=0.0).double().eval()
    with torch.no_grad():
        block.attn.relative_position_bias_table.normal_()
        x = torch.randn(2, 6, 9, 4, dtype=torch.float64)
        ours = block._attend(x)
        expected = torch.stack([_oracle(block, sample) for sample in x])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_merging_stacks_neighbours_column_by_column() -> None:
    merging = PatchMerging(1)
    merging.norm, merging.reduction = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]
    merged = merging(torch.arange(6.0).view(1, 2, 3, 1))
    assert merged.tolist() == [[[[0, 3, 1, 4], [2, 5, 0, 0]]]]


def test_maps_have_the_strides_that_the_decoder_expects() -> None:
    net = SwinTransformer().eval()
    with torch.inference_mode():
        shapes = [tuple(x.shape[1:]) for x in net(torch.zeros(1, 3, 64, 80))]
    assert shapes == [(128, 16, 20), (256, 8, 10), (512, 4, 5), (512, 4, 5)]


def test_state_dict_has_the_published_names_and_shapes() -> None:
    shapes = variant_shapes()["swinb-deaot-l"]
    expected = {
        "encoder.patch_embed.proj.weight": (128, 3, 4, 4),
        "encoder.patch_embed.norm.bias": (128,),
        "encoder.layers.0.blocks.1.attn.relative_position_bias_table": (169, 4),
        "encoder.layers.0.blocks.1.attn.relative_position_index": (49, 49),
        "encoder.layers.1.blocks.0.attn.qkv.weight": (768, 256),
        "encoder.layers.2.blocks.17.mlp.fc1.weight": (2048, 512),
        "encoder.layers.1.downsample.reduction.weight": (512, 1024),
        "encoder.norm2.weight": (512,),
        "patch_wise_id_bank.weight": (256, 11, 16, 16),
        "encoder_projector.weight": (256, 512, 1, 1),
        "decoder.adapter_4x.weight": (128, 128, 1, 1),
    }
    assert {key: shapes.get(key) for key in expected} == expected
    assert "encoder.layers.2.downsample.reduction.weight" not in shapes
    assert not [key for key in shapes if key.startswith("encoder.layers.3")]
    assert len([key for key in shapes if key.startswith("encoder.")]) == 22 * 14 + 2 * 3 + 4 + 3 * 2


def test_four_stages_give_four_maps() -> None:
    net = SwinTransformer(SwinConfig(8, (1, 1, 2, 1), (1, 1, 2, 2), window=4)).eval()
    with torch.inference_mode():
        shapes = [tuple(x.shape[1:]) for x in net(torch.zeros(1, 3, 64, 96))]
    assert shapes == [(8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3)]


def test_swin_l_has_its_published_size() -> None:
    with torch.device("meta"):
        net = SwinTransformer(SWIN_L)
    # 196.74 M with a classifier of 1000 classes, less that, and a norm for each of the first three maps.
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(196.74e6 - 1537 * 1000 + 2 * 1344, abs=1e4)
    assert net.state_dict()["layers.3.blocks.1.attn.relative_position_bias_table"].shape == (23 * 23, 48)
