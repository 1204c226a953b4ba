"""UniFusion as a plug-in to a frozen segmenter."""

from __future__ import annotations

import torch

from benchmarks.unifusion_adapter import WIDTH, ShapeFinder, question, run, train_adapter
from engines.uniref.adapter import AdaptedSegmenter


def _adapted() -> tuple[ShapeFinder, AdaptedSegmenter]:
    torch.manual_seed(0)
    host = ShapeFinder().eval()
    return host, AdaptedSegmenter(host, (WIDTH, WIDTH), heads=("head.",)).eval()


def test_before_training_the_host_is_unchanged_to_the_last_bit() -> None:
    host, adapted = _adapted()
    images, exemplars, marks, _ = question(4, torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(adapted(images, exemplars, marks), host(images))


def test_only_fusion_exemplar_and_heads_learn() -> None:
    host, adapted = _adapted()
    frozen = {name: value.clone() for name, value in host.state_dict().items() if not name.startswith("head.")}
    fusion = {name: value.clone() for name, value in adapted.fusion.state_dict().items()}
    train_adapter(adapted, 2, torch.Generator().manual_seed(2))
    assert all(torch.equal(value, host.state_dict()[name]) for name, value in frozen.items())
    moved = [name for name, value in adapted.fusion.state_dict().items() if not torch.equal(value, fusion[name])]
    assert any("adaLN" in name for name in moved)


def test_a_few_steps_teach_it_to_follow_the_exemplar() -> None:
    scores = run(host_steps=25, adapter_steps=70)
    assert scores["before"] == scores["host"] < 0.6
    assert scores["after"] > 0.85
