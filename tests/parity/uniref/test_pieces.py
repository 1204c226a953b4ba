"""Each piece of the network alone against the released code's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from engines.types import Size
from engines.uniref.mask_head import aligned_bilinear
from engines.uniref.model import UniRef
from engines.uniref.position import position_encoding
from engines.uniref.preprocess import (
    EXEMPLAR_RESIZE,
    RIS_RESIZE,
    VIDEO_RESIZE,
    resize_frame,
    resize_mask,
    to_batch,
)
from engines.uniref.text import TextEncoder, clean_expression
from engines.uniref.unifusion import Reference, ReferenceTokens
from tests.parity.uniref.outputs import Outputs

Open = Callable[[str], Outputs]
LEVELS = range(4)


def _text_reference(case: Outputs) -> Reference:
    tokens = case["text_refs"].float()
    return (ReferenceTokens(tokens, tokens, case["text_ref_embeds"].float(), case["text_masks"]),) * 4


def _mask_reference(case: Outputs) -> Reference:
    return tuple(
        ReferenceTokens(
            case[f"mask_refs{i}"].float(),
            case[f"mask_values{i}"].float(),
            case[f"mask_ref_embeds{i}"].float(),
            case[f"mask_masks{i}"],
        )
        for i in LEVELS
    )


def test_unifusion(network: UniRef, outputs: Open) -> None:
    case = outputs("unifusion")
    levels = [case[f"srcs{i}"].float() for i in LEVELS]
    text, mask = _text_reference(case), _mask_reference(case)
    for kind, references in {"text": [text], "mask": [mask], "both": [text, mask]}.items():
        for i, fused in enumerate(network.fusion(levels, references)):
            case.check(f"out_{kind}{i}", fused)


def test_backbone_positions_and_padding(network: UniRef, outputs: Open) -> None:
    case = outputs("backbone")
    batch = to_batch([case["image"]])
    features = network.encode_image(batch)
    maps = network.backbone(batch.pixels)
    for i in LEVELS:
        case.check(f"srcs{i}", features.levels[i])
        case.check(f"masks{i}", features.paddings[i])
        case.check(f"pos{i}", features.positions[i])
        case.check(f"res{i + 2}_mean", maps[i].mean((2, 3)))
    for i in (3, 4, 5):
        case.check(f"res{i}", maps[i - 2])


def test_mask_encoder(network: UniRef, outputs: Open) -> None:
    case = outputs("mask_encoder")
    levels = [case[f"srcs{i}"].float() for i in LEVELS]
    values = network.mask_encoder(case["image"].float(), case["mask"].float(), levels)
    for i in LEVELS:
        case.check(f"values{i}", values[i])


def test_transformer(network: UniRef, outputs: Open) -> None:
    case = outputs("transformer")
    transformer = network.transformer
    paddings = [case[f"masks{i}"] for i in LEVELS]
    positions = [position_encoding(padding, 256) for padding in paddings]
    tokens = transformer.flatten([case[f"srcs{i}"].float() for i in LEVELS], paddings, positions)
    decoded = transformer(tokens)
    assert torch.equal(decoded.chosen, case["topk"])
    case.check("enc_class", decoded.logits)
    case.check("enc_coord_unact", decoded.boxes_unact)
    case.check("memory", decoded.memory)
    case.check("hs_first", decoded.hidden[0])
    case.check("hs_last", decoded.hidden[-1])
    case.check("init_reference", decoded.references[0])
    case.check("inter_references", torch.stack(decoded.references[1:]))
    case.check("pred_logits", transformer.class_embed[5](decoded.hidden[-1]))
    case.check("pred_boxes", decoded.references[-1])


def test_mask_head(network: UniRef, outputs: Open) -> None:
    case = outputs("mask_head")
    head = network.mask_head
    shapes = [(int(h), int(w)) for h, w in case["spatial_shapes"]]
    memory = case["memory"].float().split([h * w for h, w in shapes], 1)
    maps = [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(memory, shapes, strict=True)]
    case.check("mask_head_out", head.mask_head(maps[2], maps[1], maps[0]))
    if "res2" in case:  # the cut leaves the largest input out; the whole-network cases pass through this part too
        case.check("mask_feats", head.features(maps, case["res2"].float()))
    hidden = case["hs"].float()
    case.check("params", head.controller(hidden))
    logits = head(case["mask_feats"], hidden, case["reference_points"])
    case.check("masks_grounding", logits.unsqueeze(2))
    case.check("masks_vos", aligned_bilinear(logits, 4).unsqueeze(2))
    case.check("aligned_x2", aligned_bilinear(case["aligned_in"], 2))
    case.check("aligned_x4", aligned_bilinear(case["aligned_in"], 4))


def test_text_encoder(network: UniRef, outputs: Open) -> None:
    case = outputs("text")
    ids, attention = case["input_ids"], case["attention_mask"]
    hidden = cast(TextEncoder, network.text_encoder).hidden(ids, attention)
    reference = network.encode_text(ids, attention)[0]
    for i, length in enumerate(attention.sum(1).tolist()):
        case.check(f"last_hidden_state{i}", hidden[i, :length])
        case.check(f"refs{i}", reference.keys[i, :length])
    case.check("ref_embeds", reference.condition)
    assert reference.padding is not None
    case.check("masks", reference.padding)


def test_a_text_needs_no_padding(network: UniRef, outputs: Open) -> None:
    case = outputs("text")
    length = int(case["attention_mask"][0].sum())
    ids = case["input_ids"][:1, :length]
    case.check("refs0", network.encode_text(ids, torch.ones_like(ids))[0].keys[0])


def test_sizes_and_resampling(outputs: Open) -> None:
    case = outputs("preprocess")
    for kind, resize in {"video": VIDEO_RESIZE, "ris": RIS_RESIZE, "fss": EXEMPLAR_RESIZE}.items():
        got = [resize(Size(height, width)) for height, width in case["sizes"].tolist()]
        assert [[size.height, size.width] for size in got] == case[f"resized_{kind}"].tolist()
    for name in ("48_133", "90_120"):
        image, mask = case[f"image_{name}"].numpy(), case[f"mask_{name}"].numpy()
        assert (resize_frame(case["image"].numpy(), Size.of(image)) == image).all()
        assert (resize_mask(case["mask"].numpy(), Size.of(mask)) == mask).all()


def test_expressions_are_cleaned(outputs: Open) -> None:
    case = outputs("preprocess")
    assert [clean_expression(text) for text in case.strings("expressions")] == case.strings("expressions_clean")
