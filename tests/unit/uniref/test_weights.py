"""Published names, and what a wrong file is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engines.checkpoint import load_checkpoint
from engines.errors import UnsupportedReference, WeightsError
from engines.training.export import WeightsFacts, export_weights
from engines.uniref.config import VARIANTS, UniRefConfig
from engines.uniref.model import UniRef
from engines.uniref.position import coordinates
from engines.uniref.text import WordPieces
from engines.uniref.weights import build, convert_name, vocabulary_beside

TRUNK = "detr.detr.backbone.0.backbone."


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        (TRUNK + "stem.conv1.norm.weight", "backbone.bn1.weight"),
        (TRUNK + "res2.0.shortcut.norm.bias", "backbone.layer1.0.downsample.1.bias"),
        (TRUNK + "res5.2.conv3.weight", "backbone.layer4.2.conv3.weight"),
        (TRUNK + "layers.3.blocks.0.attn.qkv.bias", "backbone.layers.3.blocks.0.attn.qkv.bias"),
        (TRUNK + "norm3.weight", "backbone.norm3.weight"),
        ("detr.detr.class_embed.6.bias", "transformer.class_embed.6.bias"),
        ("detr.controller.layers.2.weight", "mask_head.controller.layers.2.weight"),
        ("value_encoder.fuser5.block1.conv1.bias", "mask_encoder.fuser5.block1.conv1.bias"),
        ("detr.detr.transformer.decoder.class_embed.0.weight", None),
        ("criterion._iter", None),
    ],
)
def test_published_names(published: str, ours: str | None) -> None:
    assert convert_name(published) == ours


def test_swin_l_takes_published_names() -> None:
    with torch.device("meta"):
        network = UniRef(VARIANTS["uniref-l"])
    names = network.state_dict().keys()
    assert {"backbone.patch_embed.proj.weight", "backbone.layers.2.downsample.reduction.weight"} <= names
    assert "backbone.norm0.weight" in names
    assert network.input_proj[2][0].weight.shape == (256, 1536, 1, 1)  # type: ignore[index]


def test_what_does_not_fit_is_named() -> None:
    config = VARIANTS["uniref-t"]
    state = UniRef(config).state_dict()
    build(config, state)
    missing = {name: tensor for name, tensor in state.items() if name != "transformer.level_embed"}
    with pytest.raises(WeightsError, match=r"lacks 1 tensors \(transformer.level_embed"):
        build(config, missing)
    with pytest.raises(WeightsError, match="unknown"):
        build(config, state | {"extra": torch.zeros(1)})
    with pytest.raises(WeightsError, match="other shapes"):
        build(config, state | {"transformer.level_embed": torch.zeros(4, 8)})


@pytest.mark.parametrize("change", [{"hidden_dim": 100}, {"levels": 3}, {"num_queries": 0}])
def test_impossible_configs_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(change.values())))):
        UniRefConfig(**change)  # type: ignore[arg-type]


def test_one_fusion_block_or_four() -> None:
    shared, own = (UniRefConfig(backbone="mobilenetv2", share_unifusion=share) for share in (True, False))
    with torch.device("meta"):
        assert [len(UniRef(config).fusion.blocks) for config in (shared, own)] == [1, 4]


def _vocabulary(folder: Path, *extra: str) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *extra]) + "\n", encoding="utf-8")
    return path


def test_word_pieces(tmp_path: Path) -> None:
    words = WordPieces.read(_vocabulary(tmp_path, "the", "red", "zebra", "##s", "left"), context_length=8)
    tokenized = words.tokenize("The (red) zebras, left-xylophone!")
    assert tokenized.ids == (2, 5, 6, 7, 8, 9, 1, 3)
    assert tokenized.unknown == ("xylophone",)
    for text, message in {"": "no words", "xylophone": "xylophone", "red " * 7: "9 tokens"}.items():
        with pytest.raises(UnsupportedReference, match=message):
            words.tokenize(text)


def test_the_vocabulary_lies_beside_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "uniref.pth"
    assert vocabulary_beside(weights) is None
    assert vocabulary_beside({}) is None
    shared = _vocabulary(tmp_path)
    assert vocabulary_beside(weights) == shared
    own = tmp_path / "uniref.pth.vocab.txt"
    own.write_text("x")
    assert vocabulary_beside(str(weights)) == own
    with pytest.raises(WeightsError, match=r"\[UNK\]"):
        WordPieces.read(own)
    with pytest.raises(WeightsError, match="fetch"):
        WordPieces.read(tmp_path / "nothing.txt")


def test_an_exported_file_in_half_precision_is_computed_with_in_single(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = UniRef(VARIANTS["uniref-t"], live_norm=True)
    path = tmp_path / "uniref-t.safetensors"
    export_weights(trained.state_dict(), path, WeightsFacts("uniref-t", 128, 1, "untrained"))
    served = build(VARIANTS["uniref-t"], load_checkpoint(path, "uniref-t").tensors).state_dict()
    for name, value in trained.state_dict().items():
        if value.is_floating_point() and name in served:
            assert served[name].dtype == torch.float32
            torch.testing.assert_close(served[name], value.half().float(), rtol=0, atol=0)


def test_coordinates_run_over_what_is_not_padding() -> None:
    padding = torch.zeros(1, 3, 6, dtype=torch.bool)
    padding[:, :, 4:] = True
    places = coordinates(padding)
    torch.testing.assert_close(places[0, 0, 0, :4], torch.tensor([-0.75, -0.25, 0.25, 0.75]), atol=1e-5, rtol=0)
    torch.testing.assert_close(places[0, 1, :, 0], torch.tensor([-2 / 3, 0.0, 2 / 3]), atol=1e-5, rtol=0)
