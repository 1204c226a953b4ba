"""What training and serving rely on in the network besides its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engines.aot.config import VARIANTS, AotConfig
from engines.aot.model import AotNet, join_memory, reader_of
from engines.layers.drop_path import DropPath
from tests.parity.weights import fill


def _tiny(name: str, **changes: object) -> AotNet:
    torch.manual_seed(0)
    config: AotConfig = replace(VARIANTS[name], **changes)  # type: ignore[arg-type]
    return AotNet(config)


def _clip(net: AotNet, images: Tensor, one_hot: Tensor) -> Tensor:
    """Logits of the last of three frames; images [B, 3, 3, H, W]."""
    encoded = [net.encode(images[:, t]) for t in range(3)]
    identity = net.embed_ids(one_hot)
    first = net.reference_step(encoded[0], identity)
    assert first.memory is not None
    second = net.propagate_step(encoded[1], reader_of(first.memory, net.config.heads), [first.memory])
    newer = net.remember(second, identity)
    memory = join_memory(first.memory, newer)
    recent = [newer, first.memory][: max(1, net.config.short_term_frames)]
    third = net.propagate_step(encoded[2], reader_of(memory, net.config.heads), recent)
    return net.decode(third, encoded[2])


@pytest.mark.parametrize("name", ["aot-s", "deaot-s"])
def test_every_trainable_parameter_gets_a_gradient(name: str) -> None:
    net = _tiny(name, live_norm=True, drop_path=0.0).train()
    images, one_hot = torch.randn(2, 3, 3, 33, 49), torch.rand(2, 11, 33, 49)
    _clip(net, images, one_hot).square().mean().backward()
    without = {key for key, p in net.named_parameters() if p.grad is None}
    assert without == ({"LSTT.mask_token"} if name == "aot-s" else set())


@pytest.mark.parametrize(
    "changes",
    [
        {"short_term_frames": 0},
        {"short_term_frames": 2},
        {"window_radius": 2},
        {"use_gate": False},
        {"use_depthwise": False},
        {"decouple": False},
        {"drop_path_memory": True},
    ],
    ids=str,
)
def test_what_the_papers_ablate_can_be_switched_and_trained(changes: dict[str, object]) -> None:
    net = _tiny("deaot-s", live_norm=True, **({"drop_path": 0.0} | changes)).train()
    logits = _clip(net, torch.randn(1, 3, 3, 33, 33), torch.rand(1, 11, 33, 33))
    logits.square().mean().backward()
    assert logits.shape == (1, 11, 9, 9)
    unused = {
        key for key, p in net.named_parameters() if p.grad is None and "linear_U" not in key and "ID_U" not in key
    }
    assert not unused


def test_live_and_frozen_norms_share_one_state_dict() -> None:
    live, frozen = _tiny("deaot-t", live_norm=True), _tiny("deaot-t")
    assert list(live.state_dict()) == list(frozen.state_dict())
    frozen.load_state_dict(live.state_dict(), strict=True)
    image = torch.randn(1, 3, 33, 49)
    torch.testing.assert_close(live.eval().encode(image).tokens, frozen.eval().encode(image).tokens)


def test_a_batch_equals_its_samples() -> None:
    net = _tiny("deaot-s").eval()
    images, one_hot = torch.randn(2, 3, 3, 33, 49), torch.rand(2, 11, 33, 49)
    with torch.inference_mode():
        together = _clip(net, images, one_hot)
        alone = torch.cat([_clip(net, images[i : i + 1], one_hot[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_drop_path_acts_on_whole_samples() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.5).train()(torch.ones(64, 5, 3)).flatten(1)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert bool((dropped == dropped[:, :1]).all())
    assert DropPath(0.5).eval()(torch.ones(4)).tolist() == [1.0] * 4


def test_what_is_recast_for_serving_computes_the_same() -> None:
    for name in ("deaot-t", "r50-aot-l"):
        net = _tiny(name).eval()
        net.encoder.load_state_dict(fill({k: list(v.shape) for k, v in net.encoder.state_dict().items()}))
        image = torch.randn(1, 3, 49, 65)
        with torch.inference_mode():
            before = net.encode(image)
            net.optimise_for_serving()
            after = net.encode(image.contiguous(memory_format=torch.channels_last))
        for a, b in zip((before.tokens, *before.adapted), (after.tokens, *after.adapted), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
