"""A published PyTorch checkpoint to safetensors: the same names and values, and where they come from. Needs torch."""

from __future__ import annotations

from pathlib import Path

from engines.checkpoint import load_checkpoint
from service.weights.published import PublishedWeights


def convert(source: Path, target: Path, entry: PublishedWeights) -> None:
    """Write `target`, after the engine has loaded the weights strictly. Raises WeightsError."""
    from safetensors.torch import save_file

    from engines.registry import create, create_proposer

    checkpoint = load_checkpoint(source, entry.engine)
    (create_proposer if entry.engine == "spatial-embeddings" else create)(entry.engine, weights=source, device="cpu")
    metadata = {
        "engine": entry.engine,
        "source": entry.url or entry.page,
        "licence": entry.licence,
        "published_sha256": checkpoint.sha256,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    save_file({key: value.contiguous().clone() for key, value in checkpoint.tensors.items()}, temporary, metadata)
    temporary.replace(target)
