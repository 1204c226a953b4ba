"""What a UniRef++ network is made of: one frozen dataclass, and the named variants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engines.uniref.words import WORDS

Backbone = Literal["resnet50", "swin_l", "mobilenetv2"]


@dataclass(frozen=True)
class TextConfig:
    """Size of the text encoder. The defaults are BERT-base, uncased.

    kind: "bert" reads word pieces with BERT; "words" reads whole words of a small vocabulary with a small transformer.
    """

    kind: Literal["bert", "words"] = "bert"
    vocabulary_size: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    feedforward: int = 3072
    max_positions: int = 512
    context_length: int = 77


@dataclass(frozen=True)
class UniRefConfig:
    """Every number of the network.

    share_unifusion: one fusion block serves all four levels (published); False gives each level its own.
    rvos_mask_reference: text video segmentation also looks at the masks found so far (published); False is text only.
    mask_encoder_widths: channels of the mask encoder's four stages. dense_head: a mask straight from the fused
    features, beside those of the queries. coordinates: a projection of every cell's (x, y) is added to the features
    before the fusion, so that a text can speak of places (both: light variant only; not published).
    """

    backbone: Backbone = "resnet50"
    hidden_dim: int = 256
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward: int = 2048
    points: int = 4
    levels: int = 4
    num_queries: int = 300
    dropout: float = 0.1
    fusion_heads: int = 8
    fusion_head_dim: int = 256
    share_unifusion: bool = True
    rvos_mask_reference: bool = True
    mask_channels: int = 8
    mask_encoder_widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    dense_head: bool = False
    coordinates: bool = False
    text: TextConfig = field(default_factory=TextConfig)

    def __post_init__(self) -> None:
        if self.hidden_dim % self.heads or self.hidden_dim % 32:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be divisible by heads {self.heads} and by 32")
        if self.levels != 4:
            raise ValueError(f"the backbone, mask encoder and mask head give 4 levels, not {self.levels}")
        if self.num_queries < 1:
            raise ValueError(f"num_queries must be positive, not {self.num_queries}")


VARIANTS: dict[str, UniRefConfig] = {
    "uniref": UniRefConfig(),
    "uniref-l": UniRefConfig(backbone="swin_l"),
    "uniref-t": UniRefConfig(
        backbone="mobilenetv2",
        hidden_dim=64,
        heads=4,
        encoder_layers=2,
        decoder_layers=2,
        feedforward=256,
        num_queries=20,
        dropout=0.0,
        fusion_heads=4,
        fusion_head_dim=64,
        mask_encoder_widths=(16, 32, 48, 64),
        dense_head=True,
        coordinates=True,
        text=TextConfig(
            kind="words",
            vocabulary_size=len(WORDS),
            width=64,
            layers=2,
            heads=4,
            feedforward=128,
            max_positions=32,
            context_length=32,
        ),
    ),
}
