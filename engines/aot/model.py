"""The AOT and DeAOT network, one code path for every variant. Knows tensors, not videos, objects' ids or banks.

A clip goes through it like this; training and serving use the same functions:

    encoded = net.encode(images)                          # all frames of a clip at once, if wanted
    identity = net.embed_ids(one_hot)
    step = net.reference_step(encoded, identity)          # first frame
    logits = net.decode(step, encoded)
    step = net.propagate_step(encoded, read, short_term)  # a later frame
    memory = net.remember(step, net.embed_ids(predicted)) # what that frame leaves behind

The batch axis is whatever the caller makes of it: samples of a training batch, or (track, group of ten objects).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.aot.config import CHANNELS_PER_GROUP, STRIDE, WIDTH, AotConfig
from engines.aot.coupled import CoupledLayer
from engines.aot.decoder import Decoder
from engines.aot.gpm import GpmLayer
from engines.aot.lstt import LsttLayer
from engines.aot.propagation import Grid, LayerInput, LayerMemory, PropagationLayer, Query, Streams
from engines.layers.attention import attend
from engines.layers.mobilenetv2 import MobileNetV2
from engines.layers.norm import fold_norms
from engines.layers.products import recast_linear
from engines.layers.resnet import RESNET50_BLOCKS, ResNet
from engines.layers.serving_conv import PointwiseConv2d, recast_pointwise
from engines.layers.serving_inverted import recast_inverted
from engines.layers.swin import SwinTransformer

LongTermReader = Callable[[int, Tensor], Tensor]
"""(layer, query [B, N, key width]) to the long-term read-out [B, N, value width]."""


class EncodedFrame(NamedTuple):
    """What the network knows of images before any object.

    tokens: [B, N, 256], row by row. adapted: the decoder's share of the maps at 1/4, 1/8, 1/16. grid: (rows, columns).
    maps: those maps and the projected one, as the encoder made them; they stay with the frames, see rows().
    """

    tokens: Tensor
    adapted: tuple[Tensor, Tensor, Tensor]
    grid: Grid
    maps: tuple[Tensor, ...]

    def rows(self, index: Sequence[int]) -> EncodedFrame:
        """The frames `index` of the batch, in that order and as often as it says, without their maps."""
        if list(index) == list(range(self.tokens.shape[0])):
            return self
        chosen = torch.tensor(index, dtype=torch.int64, device=self.tokens.device)
        a4, a8, a16 = (x.index_select(0, chosen) for x in self.adapted)
        return EncodedFrame(self.tokens.index_select(0, chosen), (a4, a8, a16), self.grid, ())

    def maps_of(self, index: int) -> tuple[Tensor, ...]:
        """The maps of one frame, [1, C, h, w] each; nothing is copied."""
        return tuple(x[index : index + 1] for x in self.maps)


class Step(NamedTuple):
    """One pass over the layers. decoder_input: [B, C, h, w]; queries: per layer, to be remembered later."""

    decoder_input: Tensor
    queries: tuple[Query, ...]
    memory: tuple[LayerMemory, ...] | None

    def own_memory(self) -> tuple[LayerMemory, ...]:
        """Per layer, what a reference frame leaves; of other frames it is not known before their labels are."""
        if self.memory is None:
            raise ValueError("only a reference step has its memory at once")
        return self.memory


def sine_position(grid: Grid, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[N, 256] two-dimensional sine embedding, rows first, from 0 at the first row to 2 pi at the last.

    Source: Carion et al. 2020 (DETR), counted from 0 as the released AOT does.
    """
    half = WIDTH // 2
    exponent = torch.arange(half, device=device, dtype=torch.float32).div(2, rounding_mode="floor") * 2 / half
    axes = []
    for length in grid:
        place = torch.arange(length, device=device, dtype=torch.float32) / (length - 1 + 1e-6) * 2 * math.pi
        angle = place[:, None] / 10000.0**exponent
        axes.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1))  # [length, half]
    rows = axes[0][:, None].expand(-1, grid[1], -1)
    columns = axes[1][None].expand(grid[0], -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1).to(dtype)


def reader_of(memory: Sequence[LayerMemory], heads: int) -> LongTermReader:
    """Read plain batched memory, every token of it."""

    def read(layer: int, query: Tensor) -> Tensor:
        return attend(query, memory[layer].key, memory[layer].value, heads=heads).value

    return read


def join_memory(older: Sequence[LayerMemory], newer: Sequence[LayerMemory]) -> tuple[LayerMemory, ...]:
    """Long-term memory with another frame in it, layer by layer."""
    return tuple(
        LayerMemory(torch.cat([a.key, b.key], dim=1), torch.cat([a.value, b.value], dim=1))
        for a, b in zip(older, newer, strict=True)
    )


class DecoderNorm(nn.Module):
    """DeAOT's last norm: one group per stream, over all channels and tokens."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(streams, streams * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, streams * 256] to the same."""
        maps = x.transpose(1, 2).unsqueeze(2)  # [B, streams * 256, 1, N], channels last in memory: nothing is copied
        normed: Tensor = self.gn(maps).squeeze(2)
        return normed.transpose(1, 2)


class Propagation(nn.Module):
    """The layers and the norms between them and the decoder (`LSTT` in state dicts)."""

    def __init__(self, config: AotConfig) -> None:
        super().__init__()
        self.gated = config.gated
        layer = (GpmLayer if config.decouple else CoupledLayer) if config.gated else LsttLayer
        self.layers = nn.ModuleList(layer(config, index) for index in range(config.layers))
        if config.gated:
            self.decoder_norms = nn.ModuleList([DecoderNorm(2 if config.decouple else 1)])
        else:
            self.decoder_norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(config.layers))
            self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))  # in the published files, never used

    def blocks(self) -> list[PropagationLayer]:
        """The layers, typed by what they do."""
        return list(self.layers)  # type: ignore[arg-type]

    def for_decoder(self, outputs: Sequence[Streams]) -> list[Tensor]:
        """The tokens that the decoder sees, layer by layer."""
        if not self.gated:
            return [norm(out.visual) for norm, out in zip(self.decoder_norms, outputs, strict=True)]
        last = [stream for stream in outputs[-1] if stream is not None]
        return [self.decoder_norms[0](torch.cat(last, dim=-1))]


class AotNet(nn.Module):
    """Any AOT or DeAOT variant; `config` says which. State-dict keys are the published ones.

    Source: Yang et al. 2021 (AOT) and 2022 (DeAOT); numbers checked by tests/parity/aot.
    """

    def __init__(self, config: AotConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _build_encoder(config)
        self.encoder_projector: nn.Module = nn.Conv2d(config.encoder_channels[3], WIDTH, 1)
        self.LSTT = Propagation(config)
        self.decoder = Decoder(config)
        kernel = STRIDE + 1 if config.align_corners else STRIDE
        padding = STRIDE // 2 if config.align_corners else 0
        self.patch_wise_id_bank = nn.Conv2d(CHANNELS_PER_GROUP, WIDTH, kernel, STRIDE, padding)
        self.id_norm: nn.LayerNorm | None = nn.LayerNorm(WIDTH) if config.gated else None
        self.identity_dropout = nn.Dropout(config.identity_dropout)

    def optimise_for_serving(self) -> None:
        """Fold the norms, recast linear layers and 1x1 convolutions, in place.

        The state dict is not the published one afterwards.
        """
        fold_norms(self.encoder)
        recast_inverted(self.encoder)
        recast_pointwise(self.encoder)
        recast_pointwise(self.decoder)
        recast_linear(self)
        if isinstance(self.encoder_projector, nn.Conv2d):
            self.encoder_projector = PointwiseConv2d(self.encoder_projector)

    def encode(self, images: Tensor) -> EncodedFrame:
        """[B, 3, H, W] normalised RGB; H and W are 16k + 1 (16k for Swin variants)."""
        maps = self.encoder(images)
        deepest = self.encoder_projector(maps[-1])
        grid = (int(deepest.shape[2]), int(deepest.shape[3]))
        seen = (*maps[:3], deepest)
        return EncodedFrame(deepest.flatten(2).transpose(1, 2), self.decoder.adapt(maps), grid, seen)

    def embed_ids(self, one_hot: Tensor) -> Tensor:
        """[B, c <= 11, H, W] one-hot (or soft) label channels, background first, to [B, N, 256].

        Channels that are left out count as empty, at no cost.
        """
        bank = self.patch_wise_id_bank
        tokens = F.conv2d(one_hot, bank.weight[:, : one_hot.shape[1]], bank.bias, bank.stride, bank.padding)
        tokens = tokens.flatten(2).transpose(1, 2)
        return self.identity_dropout(tokens if self.id_norm is None else self.id_norm(tokens))

    def reference_step(self, encoded: EncodedFrame, identity: Tensor) -> Step:
        """A frame whose label map is given: it reads itself. identity: [B, N, 256] from embed_ids()."""
        return self._step(encoded, identity=identity)

    def propagate_step(
        self, encoded: EncodedFrame, long_term: LongTermReader, short_term: Sequence[Sequence[LayerMemory]]
    ) -> Step:
        """A frame whose label map is sought. short_term: the newest frames' memories, newest first."""
        return self._step(encoded, long_term=long_term, short_term=short_term)

    def remember(self, step: Step, identity: Tensor) -> tuple[LayerMemory, ...]:
        """Per layer, the tokens that a frame leaves once its label map is known. identity: [B, N, 256]."""
        layers = self.LSTT.blocks()
        return tuple(layer.remember(query, identity) for layer, query in zip(layers, step.queries, strict=True))

    def decode(self, step: Step, encoded: EncodedFrame) -> Tensor:
        """Logits [B, 11, H4, W4] at a quarter of the input, nothing masked."""
        return self.decoder(step.decoder_input, encoded.adapted)

    def _step(
        self,
        encoded: EncodedFrame,
        *,
        identity: Tensor | None = None,
        long_term: LongTermReader | None = None,
        short_term: Sequence[Sequence[LayerMemory]] = (),
    ) -> Step:
        tokens = encoded.tokens
        at = LayerInput(encoded.grid, sine_position(encoded.grid, device=tokens.device, dtype=tokens.dtype))
        streams, outputs, queries, memory = Streams(tokens, None), [], [], []
        for index, layer in enumerate(self.LSTT.blocks()):
            streams, query = layer.prepare(streams, at)
            if identity is not None:
                memory.append(layer.remember(query, identity))
                read, near = reader_of(memory, self.config.heads), [memory[-1]]
            else:
                read, near = _required(long_term), [frame[index] for frame in short_term]
            streams = layer.complete(streams, query, read(index, query.key), near, at)
            outputs.append(streams)
            queries.append(query)
        seen = self.LSTT.for_decoder(outputs)
        if not self.config.gated:
            seen.insert(0, tokens)
        decoder_input = torch.cat(seen, dim=-1).unflatten(1, encoded.grid).permute(0, 3, 1, 2)
        return Step(decoder_input, tuple(queries), tuple(memory) if identity is not None else None)


def _required(reader: LongTermReader | None) -> LongTermReader:
    if reader is None:
        raise ValueError("a frame without a label map needs a long-term memory to read")
    return reader


def resize_logits(logits: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """[B, C, h, w] to [B, C, *size], bilinear, as the variant was trained."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=align_corners)


def _build_encoder(config: AotConfig) -> nn.Module:
    if config.encoder == "mobilenetv2":
        return MobileNetV2(live_norm=config.live_norm)
    if config.encoder == "swin_base":
        return SwinTransformer()
    return _DeepestTwice(RESNET50_BLOCKS, stages=3, live_norm=config.live_norm)


class _DeepestTwice(ResNet):
    """The 1/16 map of a ResNet serves as the deepest one too."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] to maps of 256, 512, 1024 and again 1024 channels."""
        maps = super().forward(x)
        return (*maps, maps[-1])
