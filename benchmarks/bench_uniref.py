"""UniRef++ (R50) at 854x480: CPU seconds and memory of ours beside a plain transcription of the released arithmetic.

    python -m benchmarks.bench_uniref [--objects 1]

The transcription materialises the attention over the references, projects keys and values, makes the masks of all 300
queries, and repeats the trunk for every object. Both run in turn in child processes; CPU seconds do not depend on what
else the machine does, wall time does. The last line is one JSON for scripts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial

import torch
from torch import Tensor

from engines.types import Size
from engines.uniref.config import VARIANTS
from engines.uniref.inference import Geometry, find
from engines.uniref.model import ImageFeatures, UniRef
from engines.uniref.network import VideoNetwork
from engines.uniref.preprocess import RIS_RESIZE, VIDEO_RESIZE, to_batch
from engines.uniref.unifusion import CrossAttention, ReferenceTokens, join
from engines.uniref.video import ObjectMemory, Objects, predict

FRAME = Size(480, 854)


class PlainAttention(CrossAttention):
    """Keys and values projected per head, scores written out in full."""

    def forward(self, tokens: Tensor, keys: Tensor, reference: ReferenceTokens, folded: object) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)  # [B, h, N, d]

        q, k, v = split(self.q_proj(tokens)), split(self.k_proj(keys)), split(self.v_proj(reference.values))
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
        read = scores.softmax(-1) @ v
        out: Tensor = self.out_proj(read.transpose(1, 2).flatten(2))
        return out


def frame_features(model: UniRef, size: Size, seed: int) -> ImageFeatures:
    image = torch.randint(0, 255, (3, size.height, size.width), generator=torch.Generator().manual_seed(seed))
    return model.encode_image(to_batch([image]))


def text_image(model: UniRef, plain: bool) -> None:
    features = frame_features(model, RIS_RESIZE(FRAME), 0)
    ids = torch.randint(1000, 2000, (1, 77 if plain else 11))
    reference = model.encode_text(ids, torch.ones_like(ids))
    if not plain:
        find(model, features, [reference], full_size=False)
        return
    found = model.detect(features, [reference])
    masks = model.mask_head(found.mask_features, found.decoded.hidden[-1], found.points)
    torch.nn.functional.interpolate(masks[:, found.best()], features.batch.pixels.shape[-2:], mode="bilinear")


def memories(model: UniRef, objects: int) -> Objects[tuple[ReferenceTokens, ...]]:
    network = VideoNetwork(model)
    held: Objects[tuple[ReferenceTokens, ...]] = {}
    for seed in (1, 2):
        features = frame_features(model, VIDEO_RESIZE(FRAME), seed)
        masks = torch.zeros(objects, 1, *features.batch.pixels.shape[-2:])
        masks[:, :, 100:300, 100:300] = 1
        for object_id, reference in enumerate(network.encode(features, masks), start=1):
            held.setdefault(object_id, ObjectMemory()).found(reference)
    return held


def video_step(model: UniRef, held: Objects[tuple[ReferenceTokens, ...]], plain: bool) -> None:
    geometry = Geometry(FRAME, VIDEO_RESIZE(FRAME))
    if not plain:
        predict(VideoNetwork(model), frame_features(model, geometry.inner, 3), held, geometry, 0.3)
        return
    for memory in held.values():
        features = frame_features(model, geometry.inner, 3)
        found = model.detect(features, [join(memory.masks())])
        model.mask_head(found.mask_features, found.decoded.hidden[-1], found.points)


def measure(kind: str, objects: int) -> None:
    torch.manual_seed(0)
    plain = kind == "plain"
    with torch.inference_mode():
        model = UniRef(VARIANTS["uniref"]).eval()
        if plain:
            for block in model.fusion.blocks:
                block.attn.__class__ = PlainAttention
        held = memories(model, objects)
        times = {}
        tasks = {"text": partial(text_image, model, plain), "video": partial(video_step, model, held, plain)}
        for name, work in tasks.items():
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            times[f"{name}_cpu_s"] = round(time.process_time() - cpu, 2)
            times[f"{name}_wall_s"] = round(time.perf_counter() - wall, 2)
    times["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--child", choices=("plain", "ours"))
    options = parser.parse_args()
    if options.child:
        measure(options.child, options.objects)
        return
    results = {}
    for kind in ("plain", "ours"):
        command = [sys.executable, "-m", "benchmarks.bench_uniref", "--child", kind, "--objects", str(options.objects)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[kind] = json.loads(output.splitlines()[-1])
        print(f"{kind:6s} {results[kind]}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
