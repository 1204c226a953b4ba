"""Sizes and thresholds of SpatialEmbeddings. Numbers only: no tensor, no file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Centre = Literal["seed", "mean"]


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the branched ERFNet.

    num_sigmas: 1 draws circular margins, 2 elliptical ones. num_classes: one seed map per class; 1 is class-agnostic.
    grid_step: what one pixel adds to the coordinate map in x and in y; published: 2048 x 1024 over [0, 2] x [0, 1].
    """

    num_sigmas: int = 1
    num_classes: int = 1
    batch_norm_eps: float = 1e-3
    dropout_middle: float = 0.03
    dropout_deep: float = 0.3
    grid_step: tuple[float, float] = (2.0 / 2047, 1.0 / 1023)

    def __post_init__(self) -> None:
        if self.num_sigmas not in (1, 2):
            raise ValueError(f"num_sigmas must be 1 (circle) or 2 (ellipse), not {self.num_sigmas}")
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {self.num_classes}")


@dataclass(frozen=True)
class ClusterConfig:
    """How seeds become instances.

    seed_threshold: pixels above it are candidates. score_threshold: a weaker seed ends the search (published: 0.9).
    min_pixels: an instance, and the candidates still to be clustered, must be more. min_fresh: share of an instance's
    members that no earlier instance took. centre: "seed" uses the embedding and sigma of the strongest seed, as
    published; "mean" takes the means over the members found that way and gathers once more. max_rounds bounds the work
    on maps without structure; None is the published search without an end.
    """

    seed_threshold: float = 0.5
    score_threshold: float = 0.9
    min_pixels: int = 128
    min_fresh: float = 0.5
    centre: Centre = "seed"
    max_rounds: int | None = 2000


@dataclass(frozen=True)
class LossConfig:
    """Weights of the training loss; the defaults are the published ones.

    centre: "position" attracts pixels to the instance's mean position, "mean" to the mean of its own embeddings.
    """

    centre: Literal["position", "mean"] = "position"
    num_sigmas: int = 1
    foreground_weight: float = 10.0
    instance_weight: float = 1.0
    variance_weight: float = 10.0
    seed_weight: float = 1.0


PUBLISHED = NetworkConfig()
STARTER = NetworkConfig(num_sigmas=2)
"""Ours: ellipses fit people and animals better than the circles that were chosen for cars."""
