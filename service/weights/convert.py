"""A published checkpoint to safetensors: the same values, and where they come from. Needs torch."""

from __future__ import annotations

from pathlib import Path

from engines.checkpoint import Checkpoint, load_checkpoint
from service.weights.published import PublishedWeights


def convert(source: Path, target: Path, entry: PublishedWeights) -> None:
    """Write `target`, after the engine has loaded the weights strictly. Raises WeightsError."""
    from safetensors.torch import save_file

    from engines.registry import create, create_proposer

    checkpoint = _read(source, entry.engine)
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


def _read(source: Path, engine: str) -> Checkpoint:
    if engine == "feelvos":
        from engines.feelvos.weights import load_weights

        return load_weights(source, engine)
    return load_checkpoint(source, engine)
