"""UniRef++ as an engine: tracks, references of every kind, snapshots. Holds weights; a video is its track."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.catalog import CATALOG
from engines.checkpoint import Weights, load_checkpoint
from engines.errors import FrameSizeChanged, NoReferenceFrame, StateMismatch, UnsupportedReference
from engines.protocols import EngineSpec, Grounding
from engines.types import IGNORE_LABEL, Frame, LabelMap, MemoryPolicy, Prediction, Size, TrackState
from engines.uniref.config import VARIANTS
from engines.uniref.inference import RVOS_SCORE_THRESHOLD, VOS_SCORE_THRESHOLDS, Geometry, find, probability_maps
from engines.uniref.model import ImageFeatures, UniRef
from engines.uniref.network import VideoNetwork
from engines.uniref.preprocess import (
    EXEMPLAR_RESIZE,
    RIS_RESIZE,
    VIDEO_RESIZE,
    Resize,
    frame_tensor,
    to_batch,
)
from engines.uniref.state import pack, unpack
from engines.uniref.text import Tokenizer, build_tokenizer
from engines.uniref.track import (
    REFERENCES_PER_OBJECT,
    STRIDE,
    UniRefTrack,
    check_budget,
    check_size,
    reference_masks,
    reference_tokens,
)
from engines.uniref.unifusion import Reference
from engines.uniref.video import ObjectMemory, label_masks, predict, remember, soft_aggregate
from engines.uniref.weights import build as build_network
from engines.uniref.weights import vocabulary_beside
from engines.visibility import Visibility
from engines.visibility import predict as judge

_SCHEMA = 1
# Peak activations in float32 copies of the padded image (3 channels), measured on the R50 network at 480p.
_ACTIVATION_COPIES = 130


@dataclass(frozen=True)
class Scales:
    """Resizing before the network: video frames, still images with a text, and exemplars with their query."""

    video: Resize
    text: Resize
    exemplar: Resize


@dataclass(frozen=True)
class Rules:
    """Inference rules of a set of weights.

    score_threshold: an object followed by masks whose best query is less likely is not in the frame; text_threshold
    the same while a text takes part. objects_per_pass: objects that share a pass when tracks need not be bit-equal.
    """

    scales: Scales
    score_threshold: float = VOS_SCORE_THRESHOLDS["davis"]
    text_threshold: float = RVOS_SCORE_THRESHOLD
    objects_per_pass: int = 4


class UniRefEngine:
    """Implements `Engine` and `ReferenceSegmenter`."""

    def __init__(self, model: UniRef, spec: EngineSpec, rules: Rules, tokenizer: Tokenizer | None) -> None:
        self._model = model
        self._spec = spec
        self._rules = rules
        self._tokenizer = tokenizer
        per_pass = 1 if spec.deterministic else rules.objects_per_pass
        self._network = VideoNetwork(model, objects_per_pass=per_pass, text_alone=not model.config.rvos_mask_reference)

    @property
    def spec(self) -> EngineSpec:
        """Facts of this engine and its weights."""
        return self._spec

    @contextmanager
    def _computing(self) -> Iterator[None]:
        half = self._spec.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self._spec.device.type, self._spec.dtype, enabled=half):
            yield

    def open(self, size: Size, memory: MemoryPolicy) -> UniRefTrack:
        """An empty track. Raises BudgetTooSmall."""
        geometry = Geometry(size, self._rules.scales.video(size))
        check_budget(memory, geometry, self._model.config.hidden_dim, objects=1)
        cell_px = STRIDE**2 * size.height * size.width / (geometry.inner.height * geometry.inner.width)
        return UniRefTrack(size, geometry, memory, Visibility(cell_px))

    def memorize(self, track: UniRefTrack, frame: Frame, label_map: LabelMap, *, object_ids: Collection[int]) -> None:
        """Take a client's masks. An object without pixels here stays as it was known before."""
        check_size(track, frame)
        check_size(track, label_map)
        dim = self._model.config.hidden_dim
        check_budget(track.memory, track.geometry, dim, objects=len({*track.objects, *object_ids}))
        shown = [object_id for object_id in sorted(object_ids) if bool((label_map == object_id).any())]
        for object_id in object_ids:
            track.objects.setdefault(object_id, ObjectMemory())
            track.visibility.reset(object_id)
        if not shown:
            return
        masks = np.stack([label_map == object_id for object_id in shown])
        with self._computing():
            features = self._encode([frame], track.geometry.inner)[0]
            given = reference_masks(torch.from_numpy(masks).to(self._spec.device), track.geometry)
            for object_id, reference in zip(shown, self._network.encode(features, given), strict=True):
                track.objects[object_id].give(reference)

    def refer(self, track: UniRefTrack, object_id: int, text: str) -> tuple[str, ...]:
        """Follow what a text describes, from the next frame on; returns its unknown words.

        Raises UnsupportedReference, KeyError if the object is already known.
        """
        if object_id in track.objects:
            raise KeyError(f"object {object_id} is already followed")
        reference, unknown = self._text_reference(text)
        track.objects[object_id] = ObjectMemory(text=reference)
        return unknown

    def propagate(
        self, tracks: Sequence[UniRefTrack], frames: Sequence[Frame], *, probability: bool = False
    ) -> list[Prediction]:
        """Find every object of every track in its next frame, and remember where it was found for sure."""
        for track, frame in zip(tracks, frames, strict=True):
            check_size(track, frame)
            if not track.objects:
                raise NoReferenceFrame("the track follows no object yet; memorize() or refer() first")
        with self._computing():
            encoded = self._encode(frames, *{track.geometry.inner for track in tracks})
            return [
                self._step(track, features, keep=probability) for track, features in zip(tracks, encoded, strict=True)
            ]

    def _step(self, track: UniRefTrack, features: ImageFeatures, *, keep: bool) -> Prediction:
        maps = self._probabilities(track, features)
        # The published arg-max does not need it, but a probability has to sum to one.
        merged = soft_aggregate(maps)
        merged = merged / merged.sum(0, keepdim=True)
        prediction = judge(merged, track.object_ids, track.visibility, keep_probability=keep)
        sure = [object_id for object_id in track.object_ids if track.visibility.is_certain(object_id)]
        labels = torch.from_numpy(prediction.label_map).to(self._spec.device)
        remember(self._network, features, track.objects, label_masks(labels, sure), track.geometry)
        track.steps += 1
        return prediction

    def _probabilities(self, track: UniRefTrack, features: ImageFeatures) -> dict[int, Tensor]:
        by_text = {k: m for k, m in track.objects.items() if m.text is not None}
        by_mask = {k: m for k, m in track.objects.items() if m.text is None and m.masks()}
        rules, geometry = self._rules, track.geometry
        maps = predict(self._network, features, by_mask, geometry, rules.score_threshold)
        maps |= predict(self._network, features, by_text, geometry, rules.text_threshold)
        empty = torch.zeros(track.size.height, track.size.width, device=self._spec.device)
        return {object_id: maps.get(object_id, empty) for object_id in track.object_ids}

    def _encode(self, frames: Sequence[Frame], *inner: Size) -> list[ImageFeatures]:
        """Features of frames of one network size; together, unless every track must be independent to the last bit."""
        if len(inner) > 1:
            raise FrameSizeChanged(f"tracks of one call must share a network size, not {sorted(map(str, inner))}")
        images = [frame_tensor(frame, inner[0], self._spec.device) for frame in frames]
        if self._spec.deterministic:
            return [self._model.encode_image(to_batch([image])) for image in images]
        return self._model.encode_image(to_batch(images)).split()

    def ground(
        self,
        frame: Frame,
        *,
        text: str | None = None,
        exemplar: Frame | None = None,
        exemplar_mask: LabelMap | None = None,
    ) -> Grounding:
        """Find what a text describes, or what is marked in another picture."""
        if (text is None) == (exemplar is None):
            raise UnsupportedReference("give either a text or an exemplar")
        if exemplar is not None and exemplar_mask is None:
            raise UnsupportedReference("an exemplar needs a mask that shows the object in it")
        unknown: tuple[str, ...] = ()
        with self._computing():
            if text is not None:
                reference, unknown = self._text_reference(text)
                resize: Callable[[Size], Size] = self._rules.scales.text
            else:
                reference = self._exemplar_reference(exemplar, exemplar_mask)
                resize = self._rules.scales.exemplar
            geometry = Geometry(Size.of(frame), resize(Size.of(frame)))
            features = self._encode([frame], geometry.inner)[0]
            found = find(self._model, features, [reference], full_size=False)
            probability = probability_maps(found.logits, geometry)[0].cpu().numpy()
        return Grounding(probability, float(found.scores[0]), unknown)

    def _text_reference(self, text: str) -> tuple[Reference, tuple[str, ...]]:
        if self._tokenizer is None:
            raise UnsupportedReference("these weights came without a vocabulary file, so texts cannot be read")
        tokenized = self._tokenizer.tokenize(text)
        ids = torch.tensor([tokenized.ids], device=self._spec.device)
        with self._computing():
            return self._model.encode_text(ids, torch.ones_like(ids)), tokenized.unknown

    def _exemplar_reference(self, exemplar: Frame | None, mask: LabelMap | None) -> Reference:
        if exemplar is None or mask is None or Size.of(exemplar) != Size.of(mask):
            raise UnsupportedReference("the exemplar and its mask must have the same size")
        if not mask.any():
            raise UnsupportedReference("the exemplar's mask is empty; mark the object in it")
        geometry = Geometry(Size.of(exemplar), self._rules.scales.exemplar(Size.of(exemplar)))
        features = self._encode([exemplar], geometry.inner)[0]
        marked = torch.from_numpy((mask > 0) & (mask != IGNORE_LABEL)).to(self._spec.device)
        return self._network.encode(features, reference_masks(marked[None], geometry))[0]

    def forget(self, track: UniRefTrack, object_id: int) -> None:
        """Stop following an object. Raises KeyError for an unknown id."""
        del track.objects[object_id]
        track.visibility.forget(object_id)

    def snapshot(self, track: UniRefTrack) -> TrackState:
        """The whole state of a track, copied to the host."""
        packed = pack(track.objects)
        own: dict[str, int | str] = {
            "schema": _SCHEMA,
            "engine": self._spec.info.name,
            "weights": self._spec.weights_sha256,
            "dtype": str(self._spec.dtype),
            "height": track.size.height,
            "width": track.size.width,
            "steps": track.steps,
            "visibility": track.visibility.to_json(),
            "memory": json.dumps(vars(track.memory)),
        }
        return TrackState({**packed.meta, **own}, packed.tensors)

    def restore(self, state: TrackState) -> UniRefTrack:
        """The track that snapshot() saw. Raises StateMismatch."""
        mine = (_SCHEMA, self._spec.info.name, self._spec.weights_sha256, str(self._spec.dtype))
        theirs = tuple(state.meta.get(name) for name in ("schema", "engine", "weights", "dtype"))
        if mine != theirs:
            raise StateMismatch(f"the snapshot is of {theirs}, this engine is {mine}")
        size = Size(int(state.meta["height"]), int(state.meta["width"]))
        track = self.open(size, MemoryPolicy(**json.loads(str(state.meta["memory"]))))
        track.visibility = Visibility.from_json(str(state.meta["visibility"]))
        track.objects = unpack(state, self._spec.device)
        track.steps = int(state.meta["steps"])
        return track

    def track_bytes(self, size: Size, objects: int, memory: MemoryPolicy) -> int:
        """References of all objects, and the activations of one pass."""
        geometry = Geometry(size, self._rules.scales.video(size))
        dim = self._model.config.hidden_dim
        held = objects * REFERENCES_PER_OBJECT * reference_tokens(geometry) * dim * 2 * 4
        pixels = geometry.padded.height * geometry.padded.width
        passes = 1 if self._spec.deterministic else min(objects, self._rules.objects_per_pass)
        return held + pixels * 3 * 4 * _ACTIVATION_COPIES * max(passes, 1)


PUBLISHED_SCALES = Scales(VIDEO_RESIZE, RIS_RESIZE, EXEMPLAR_RESIZE)


def build(
    name: str,
    *,
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    deterministic: bool,
    compile: bool,
) -> UniRefEngine:
    """Load a UniRef++ engine; free text needs the vocabulary file beside the weights. Raises WeightsError."""
    config = VARIANTS[name]
    checkpoint = load_checkpoint(weights, name)
    model = build_network(config, checkpoint.tensors).to(device)
    if compile:
        model.backbone.compile()
    short_side = checkpoint.integer("net_short_side", VIDEO_RESIZE.short_side)
    spec = EngineSpec(CATALOG[name], short_side, 1, checkpoint.sha256, dtype, device, deterministic)
    tokenizer = build_tokenizer(config.text, vocabulary_beside(weights))
    return UniRefEngine(model, spec, Rules(_scales(short_side)), tokenizer)


def _scales(short_side: int) -> Scales:
    """The published sizes, or one size for all where the weights name their own."""
    if short_side == VIDEO_RESIZE.short_side:
        return PUBLISHED_SCALES
    own = Resize(short_side, VIDEO_RESIZE.long_side * short_side // VIDEO_RESIZE.short_side)
    return Scales(own, own, own)
