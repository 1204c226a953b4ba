"""MobileNetV2's blocks in bands of rows against the blocks as they were built."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engines.layers.mobilenetv2 import InvertedResidual
from engines.layers.norm import fold_norms
from engines.layers.serving_inverted import recast_inverted


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("expand", "stride", "dilation"), [(6, 1, 1), (6, 2, 1), (6, 1, 2), (1, 1, 1)])
@pytest.mark.parametrize("rows", [1, 12, 13])
def test_bands_change_no_number(
    rows: int,
    expand: int,
    stride: int,
    dilation: int,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engines.layers.serving_inverted.BAND_BYTES", 1)  # bands of two rows
    torch.manual_seed(0)
    plain = InvertedResidual(4, 4, expand=expand, stride=stride, dilation=dilation, live=False).eval()
    x = torch.randn(2, 4, rows, 9).contiguous(memory_format=layout)
    net = nn.Sequential(plain)
    with torch.inference_mode():
        expected = net(x)
        fold_norms(net)
        recast_inverted(net)
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-5)
