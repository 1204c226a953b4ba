"""Training on a small network: what learns, at which rate, and that it learns."""

from __future__ import annotations

import torch

from engines.uniref.config import VARIANTS
from engines.uniref.losses import LossWeights
from engines.uniref.model import UniRef
from engines.uniref.preprocess import to_batch
from engines.uniref.training import (
    LEARNING_RATE,
    STAGES,
    PseudoVideo,
    Targets,
    batch_losses,
    parameter_groups,
    target_boxes,
    training_step,
)


def _network() -> UniRef:
    torch.manual_seed(2)
    return UniRef(VARIANTS["uniref-t"], live_norm=True).train()


def _square(height: int = 64, width: int = 96) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, 16:48, 8:40] = 1
    return mask


def _losses(network: UniRef, masks: torch.Tensor) -> dict[str, torch.Tensor]:
    image = 60 + 150 * masks.expand(3, -1, -1)
    features = network.encode_image(to_batch([image]))
    ids = torch.tensor([[1, 2, 3]])
    support = network.encode_masks(features, masks[None])
    references = [network.encode_text(ids, torch.ones_like(ids)), support]
    return batch_losses(network, network.detect(features, references), Targets(target_boxes(masks), masks))


def test_boxes_of_masks() -> None:
    torch.testing.assert_close(target_boxes(_square()), torch.tensor([[24 / 96, 32 / 64, 32 / 96, 32 / 64]]))


def test_every_parameter_learns() -> None:
    network = _network()
    for parameter in network.parameters():
        if not parameter.any():  # gates, offsets and boxes start at zero; what lies behind them learns a step later
            torch.nn.init.normal_(parameter, std=0.1)
    LossWeights().total(_losses(network, _square())).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A key's bias shifts all scores of a query alike: it can never matter.
    assert [name for name in idle if not name.endswith("k_proj.bias")] == []


def test_a_few_steps_lower_the_loss() -> None:
    network = _network()
    optimizer = torch.optim.AdamW(parameter_groups(network, STAGES[1], 1e-3))
    totals = [training_step(_losses(network, _square()), network.parameters(), optimizer) for _ in range(6)]
    assert totals[-1] < 0.8 * totals[0]


def test_rates_by_part() -> None:
    network = _network()
    groups = parameter_groups(network, STAGES[-1])
    by_rate = {group["lr"]: {id(p) for p in group["params"]} for group in groups}
    slow = by_rate[LEARNING_RATE / 10]
    assert {id(p) for p in network.backbone.parameters()} <= slow
    offsets = [p for name, p in network.named_parameters() if "sampling_offsets" in name]
    assert offsets and {id(p) for p in offsets} <= slow
    assert id(network.mask_head.lateral_conv.weight) in by_rate[LEARNING_RATE]


def test_a_pseudo_video_moves_image_and_mask_alike() -> None:
    mask = _square()
    image = mask.expand(3, -1, -1).clone()
    generator = torch.Generator().manual_seed(1)
    pair = PseudoVideo()(image, mask, generator)
    for warped, moved in pair:
        assert ((warped[0] > 0.5) == (moved[0] > 0.5)).float().mean() > 0.98
        assert 0.03 < moved.mean() < 0.5
    assert not torch.equal(pair[0][1], pair[1][1])


def test_full_size_masks_train_too() -> None:
    network, masks = _network(), _square()
    features = network.encode_image(to_batch([60 + 150 * masks.expand(3, -1, -1)]))
    detections = network.detect(features, [network.encode_masks(features, masks[None])])
    parts = batch_losses(network, detections, Targets(target_boxes(masks), masks), full_size=True)
    assert {"label", "box", "giou", "mask", "dice", "label.0", "label.first", "dice.dense"} <= parts.keys()
    assert all(torch.isfinite(part) for part in parts.values())


def test_boxes_alone_supervise_masks() -> None:
    network, masks = _network(), _square()
    features = network.encode_image(to_batch([60 + 150 * masks.expand(3, -1, -1)]))
    detections = network.detect(features, [network.encode_masks(features, masks[None])])
    similarity = torch.ones(1, 8, 16, 24)
    parts = batch_losses(network, detections, Targets(target_boxes(masks), masks, similarity))
    assert {"projection", "pairwise"} <= parts.keys()
    assert "mask" not in parts
