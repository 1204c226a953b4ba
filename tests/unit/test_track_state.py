from __future__ import annotations

import pytest
import torch

from engines.errors import StateMismatch
from engines.track_state import join_states, part_of
from engines.types import TrackState


def test_parts_come_back_as_they_went_in() -> None:
    key = torch.arange(3)
    bank = TrackState({"schema": 1}, {"feature.key": key})
    inner = join_states(TrackState({"objects": "1,2"}), {"bank0": bank})
    whole = join_states(TrackState({"steps": 7}), {"group0": inner, "group1": TrackState({"objects": "3"})})
    assert whole.meta["steps"] == 7
    found = part_of(part_of(whole, "group0"), "bank0")
    assert found.meta == bank.meta
    assert torch.equal(found.tensors["feature.key"], key)
    assert part_of(whole, "group1").meta == {"objects": "3"}


def test_a_missing_part_is_named() -> None:
    with pytest.raises(StateMismatch, match="group3"):
        part_of(TrackState({"steps": 1}), "group3")
