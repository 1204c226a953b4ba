"""Which snapshots an engine goes on from."""

from __future__ import annotations

import pytest

from engines import registry
from service.schemas import SCHEMA_VERSION
from service.worker.snapshots import fits, snapshot_record


@pytest.mark.parametrize(
    "changes",
    [{"engine": "other"}, {"weights_sha256": "0"}, {"dtype": "torch.float16"}, {"schema_version": SCHEMA_VERSION + 1}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_differs_starts_the_segment_again(changes: dict[str, object]) -> None:
    spec = registry.create("fake").spec
    own = snapshot_record(spec, 7, 0)
    assert fits(own, spec, 0) and not fits(own, spec, 1)
    assert not fits(own.model_copy(update=changes), spec, 0)
