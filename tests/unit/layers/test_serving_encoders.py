"""STM's and AFB-URR's encoders made ready for serving against the encoders as they were loaded."""

from __future__ import annotations

import copy

import pytest
import torch

from engines.layers.norm import BatchNorm2d
from engines.space_time.encoders import TrunkName, build_encoder


@pytest.mark.parametrize("trunk", ["resnet50", "mobilenetv2"])
@pytest.mark.parametrize("masks", [True, False])
def test_serving_changes_no_map(trunk: TrunkName, masks: bool) -> None:
    torch.manual_seed(0)
    plain = build_encoder(trunk, masks=masks, live_norm=False).eval().requires_grad_(False)
    for norm in plain.modules():
        if isinstance(norm, BatchNorm2d):
            for part in (norm.weight, norm.running_var):
                part.uniform_(0.5, 1.5)
            for part in (norm.bias, norm.running_mean):
                part.normal_(0, 0.1)
    serving = copy.deepcopy(plain)
    serving.optimise_for_serving()
    serving.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    frame, own = torch.rand(2, 3, 48, 64), torch.rand(2, 1, 48, 64)
    inputs = (frame, own, 1 - own) if masks else (frame,)
    with torch.inference_mode():
        ours, expected = serving(*inputs), plain(*inputs)
    for name in ("r1", "r2", "r3", "r4"):
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
