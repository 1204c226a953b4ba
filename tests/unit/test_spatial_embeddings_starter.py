"""The shipped proposal weights: what their file says, and that they find the one object of a plain picture."""

from __future__ import annotations

import numpy as np

from engines.catalog import CATALOG
from engines.proposals.ranking import iou
from engines.registry import create_proposer
from engines.spatial_embeddings.engine import SpatialEmbeddingsProposer


def test_the_starter_finds_a_lone_object() -> None:
    proposer = create_proposer(device="cpu")
    assert isinstance(proposer, SpatialEmbeddingsProposer)
    assert CATALOG["spatial-embeddings"].starter == "spatial-embeddings"
    assert (proposer.network.config.num_sigmas, proposer.config.net_short_side, proposer.config.refine_top) == (
        2,
        160,
        5,
    )
    rows, columns = np.ogrid[:160, :224]
    disc = np.asarray((columns - 112) ** 2 + (rows - 84) ** 2 <= 40**2)
    picture = np.full((160, 224, 3), (90, 140, 80), np.uint8)
    picture += np.random.default_rng(0).integers(0, 30, picture.shape, dtype=np.uint8)
    picture[disc] = (180, 60, 40)
    found = proposer.propose([picture])
    assert found and iou(found[0].mask, disc) > 0.7
