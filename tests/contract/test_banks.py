"""What every bank promises, for every policy; and what any input may do to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.banks import BankConfig, FeatureBank, Tokens, build_bank, restore_bank
from engines.banks.base import TokenBank
from engines.banks.similarity import Targets, nearest
from engines.errors import BudgetTooSmall, NoReferenceFrame, StateMismatch
from engines.types import TrackState

BUDGET = 96
WIDTH = 8
FRAME = 24

EVERY_K = BankConfig("every_k", None)
WINDOW = BankConfig("window", BUDGET)
ADAPTIVE = BankConfig("adaptive", BUDGET, grace_steps=2)
STATIC = replace(ADAPTIVE, static=True)
L2 = replace(ADAPTIVE, metric="l2", merge_threshold=2.0)
BOUNDED = [WINDOW, ADAPTIVE, STATIC, L2]
ALL = [EVERY_K, *BOUNDED]


def name_of(config: BankConfig) -> str:
    return f"{config.kind}-{config.metric}" + ("-static" if config.static else "")


def tokens(count: int, seed: int, *, spread: float = 1.0, identity: Tensor | None = None) -> Tokens:
    """Random tokens around one direction; a small spread makes them alike. Value 0 marks who wrote them."""
    rng = torch.Generator().manual_seed(seed)
    key = torch.ones(count, WIDTH) + spread * torch.randn(count, WIDTH, generator=rng)
    return Tokens({"key": key, "value": torch.randn(count, 2 * WIDTH, generator=rng)}, identity=identity)


def reference_rows(bank: FeatureBank) -> Tensor:
    """Reference tokens, key and value side by side, sorted: the order in a bank is free."""
    held = torch.cat([bank.view("key"), bank.view("value")], dim=1)[bank.is_reference()]
    return torch.stack(sorted(held.unbind(), key=lambda row: row.tolist()))


def feed(bank: FeatureBank, steps: range, *, spread: float = 1.0) -> None:
    """Read and write as an engine does."""
    for step in steps:
        bank.add_usage(torch.rand(len(bank), generator=torch.Generator().manual_seed(step)))
        bank.write(tokens(FRAME, step, spread=spread), step=step)


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_owns_its_storage(config: BankConfig) -> None:
    bank = build_bank(config)
    shared = torch.randn(FRAME, WIDTH)
    before = shared.clone()
    bank.write(Tokens({"key": shared, "value": shared}), step=0, reference=True)
    shared.zero_()
    assert torch.equal(bank.view("key"), before)
    bank.view("key").fill_(7.0)
    assert torch.equal(bank.view("value"), before)
    assert not shared.any()


@pytest.mark.parametrize("spread", [0.01, 1.0], ids=["alike", "unlike"])
@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_references_stay_as_they_came(config: BankConfig, spread: float) -> None:
    bank = build_bank(config)
    bank.write(tokens(FRAME, 0, spread=spread), step=0, reference=True)
    before = reference_rows(bank)
    feed(bank, range(1, 61), spread=spread)
    assert torch.equal(reference_rows(bank), before)


@pytest.mark.parametrize("config", BOUNDED, ids=name_of)
def test_bytes_stay_bounded_over_sixty_writes(config: BankConfig) -> None:
    bank = build_bank(config)
    bank.write(tokens(FRAME, 0), step=0, reference=True)
    most = BUDGET * (3 * WIDTH * 4 + 30)
    sizes = []
    for step in range(1, 61):
        feed(bank, range(step, step + 1))
        sizes.append(bank.nbytes)
        assert len(bank) <= BUDGET
    assert max(sizes) <= most
    assert sizes[10:] == [sizes[10]] * 50


def test_every_k_grows_with_every_write() -> None:
    bank = build_bank(EVERY_K)
    bank.write(tokens(FRAME, 0), step=0, reference=True)
    feed(bank, range(1, 61))
    assert len(bank) == 61 * FRAME
    assert bank.counts == {"written": 61 * FRAME, "merged": 0, "evicted": 0, "thinned": 0}


@pytest.mark.parametrize("config", [*ALL, replace(ADAPTIVE, exact=True)], ids=name_of)
def test_an_empty_bank_raises(config: BankConfig) -> None:
    bank = build_bank(config)
    with pytest.raises(NoReferenceFrame, match="memorize a reference"):
        bank.view("key")
    bank.write(tokens(FRAME, 0), step=0, reference=True)
    bank.discard(torch.ones(len(bank), dtype=torch.bool))
    with pytest.raises(NoReferenceFrame):
        bank.view("key")


@pytest.mark.parametrize("fill", [0, 1, 3, 30])
@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_a_restored_bank_goes_on_byte_for_byte(config: BankConfig, fill: int) -> None:
    bank = build_bank(config)
    if fill:
        bank.write(tokens(FRAME, 0), step=0, reference=True)
        feed(bank, range(1, fill))
    state = bank.snapshot()
    other = restore_bank(TrackState(dict(state.meta), {k: v.clone() for k, v in state.tensors.items()}))
    for one in (bank, other):
        one.write(tokens(FRAME, 1000), step=fill, reference=True)
        feed(one, range(fill + 1, fill + 6), spread=0.3)
    assert_equal_states(bank.snapshot(), other.snapshot())


def assert_equal_states(a: TrackState, b: TrackState) -> None:
    assert a.meta == b.meta
    assert a.tensors.keys() == b.tensors.keys()
    for name in a.tensors:
        assert torch.equal(a.tensors[name], b.tensors[name]), name


def test_a_snapshot_of_another_schema_is_refused() -> None:
    state = build_bank(ADAPTIVE).snapshot()
    with pytest.raises(StateMismatch, match="schema 99"):
        restore_bank(TrackState({**state.meta, "schema": 99}))


def test_other_features_than_before_are_refused() -> None:
    bank = build_bank(ADAPTIVE)
    bank.write(tokens(FRAME, 0), step=0, reference=True)
    with pytest.raises(ValueError, match=r"holds .*value"):
        bank.write(Tokens({"key": torch.zeros(3, WIDTH)}), step=1)


def test_alike_tokens_merge_and_unlike_ones_are_appended() -> None:
    bank = build_bank(replace(ADAPTIVE, update_rate=0.25))
    axes = torch.eye(WIDTH)
    bank.write(Tokens({"key": axes[:1], "value": axes[:1]}), step=0, reference=True)
    bank.write(Tokens({"key": axes[1:3], "value": torch.zeros(2, WIDTH)}), step=1)
    bank.write(Tokens({"key": 3 * axes[2:4], "value": torch.ones(2, WIDTH)}), step=2)
    assert len(bank) == 4
    assert bank.counts["merged"] == 1
    torch.testing.assert_close(bank.view("key")[2], 1.5 * axes[2])  # 0.75 * 1 + 0.25 * 3
    torch.testing.assert_close(bank.view("value")[2], torch.full((WIDTH,), 0.25))


def test_tokens_of_another_identity_or_on_a_boundary_never_merge() -> None:
    bank = build_bank(ADAPTIVE)
    key = torch.ones(2, WIDTH)
    bank.write(Tokens({"key": key}, identity=torch.tensor([1, 2])), step=0)
    bank.write(Tokens({"key": key[:1]}, identity=torch.tensor([3])), step=1)
    bank.write(Tokens({"key": key[:1]}, torch.tensor([1]), torch.tensor([False])), step=2)
    assert len(bank) == 4
    assert bank.counts["merged"] == 0
    bank.write(Tokens({"key": key[:1]}, identity=torch.tensor([2])), step=3)
    assert bank.counts["merged"] == 1
    assert bank.identity().tolist() == [1, 2, 3, 1]


def test_the_least_used_leave_and_only_as_many_as_must() -> None:
    bank = build_bank(replace(ADAPTIVE, budget_tokens=12, merge_threshold=2.0))
    bank.write(tokens(4, 0), step=0, reference=True)
    bank.write(tokens(8, 1), step=1)
    value = bank.view("value").clone()
    bank.add_usage(torch.tensor([0.0] * 4 + [5.0, 1.0, 4.0, 2.0, 6.0, 3.0, 8.0, 7.0]))
    bank.write(tokens(3, 2), step=5)
    left = {tuple(row) for row in bank.view("value").tolist()}
    gone = [i for i, row in enumerate(value.tolist()) if tuple(row) not in left]
    assert gone == [5, 7, 9]
    assert len(bank) == 12


def test_the_young_are_spared_while_others_can_go() -> None:
    bank = build_bank(replace(ADAPTIVE, budget_tokens=8, merge_threshold=2.0, grace_steps=5))
    bank.write(tokens(4, 0), step=0)
    bank.add_usage(torch.full((4,), 100.0))
    bank.write(tokens(4, 1), step=9)
    bank.write(tokens(2, 2), step=10)
    assert isinstance(bank, TokenBank)
    assert sorted(bank.arrival().tolist()) == [0, 0, 9, 9, 9, 9, 10, 10]


def test_window_keeps_references_and_the_newest() -> None:
    bank = build_bank(WINDOW)
    bank.write(tokens(FRAME, 0), step=0, reference=True)
    feed(bank, range(1, 11))
    assert isinstance(bank, TokenBank)
    assert sorted(set(bank.arrival().tolist())) == [0, 8, 9, 10]


@pytest.mark.parametrize("config", BOUNDED, ids=name_of)
def test_a_smaller_budget_evicts_at_once_and_frees_the_bytes(config: BankConfig) -> None:
    bank = build_bank(config)
    bank.write(tokens(FRAME, 0), step=0, reference=True)
    feed(bank, range(1, 9))
    bank.resize(BUDGET // 2, step=9)
    assert len(bank) <= BUDGET // 2
    assert bank.nbytes <= BUDGET // 2 * (3 * WIDTH * 4 + 30)
    assert int(bank.is_reference().sum()) == FRAME
    bank.resize(BUDGET, step=9)
    feed(bank, range(9, 20))
    assert BUDGET // 2 < len(bank) <= BUDGET


@pytest.mark.parametrize("config", BOUNDED, ids=name_of)
def test_a_hundred_corrections_keep_the_first_and_the_newest_whole(
    config: BankConfig, caplog: pytest.LogCaptureFixture
) -> None:
    bank = build_bank(replace(config, budget_tokens=6 * FRAME))
    for step in range(100):
        bank.write(tokens(FRAME, step), step=step, reference=True)
        feed(bank, range(step, step + 1))
        assert len(bank) <= 6 * FRAME
        assert int(bank.is_reference().sum()) <= 3 * FRAME
    assert isinstance(bank, TokenBank)
    arrivals = bank.arrival()[bank.is_reference()]
    assert int((arrivals == 0).sum()) == FRAME
    assert int((arrivals == 99).sum()) == FRAME
    assert bank.counts["thinned"] == 97 * FRAME
    assert "references exceed half" in caplog.text


def test_object_and_boundary_tokens_are_thinned_last() -> None:
    bank = build_bank(replace(ADAPTIVE, budget_tokens=6 * FRAME))
    identity = torch.arange(FRAME) % 4 // 3  # every fourth token is object 1
    for step in range(4):
        bank.write(tokens(FRAME, step, identity=identity), step=step, reference=True)
    assert isinstance(bank, TokenBank)
    middle = (bank.arrival() == 1) | (bank.arrival() == 2)
    assert int((bank.identity()[middle] == 1).sum()) == 2 * FRAME // 4


def test_more_new_tokens_than_the_budget_holds_are_merged_not_lost() -> None:
    bank = build_bank(replace(ADAPTIVE, budget_tokens=16))
    bank.write(tokens(8, 0), step=0, reference=True)
    bank.write(tokens(50, 1), step=1)
    assert len(bank) == 16
    assert bank.counts == {"written": 58, "merged": 42, "evicted": 0, "thinned": 0}


def test_exact_fails_with_a_remedy_when_one_write_exceeds_the_budget() -> None:
    bank = build_bank(replace(ADAPTIVE, budget_tokens=16, exact=True))
    bank.write(tokens(8, 0), step=0)
    with pytest.raises(BudgetTooSmall, match="at least"):
        bank.write(tokens(50, 1, spread=9.0), step=1)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_nearest_agrees_with_the_whole_matrix(metric: str) -> None:
    rng = torch.Generator().manual_seed(0)
    new, keys = torch.randn(300, 16, generator=rng).double(), torch.randn(20_000, 16, generator=rng).double()
    allowed = torch.rand(20_000, generator=rng) > 0.3
    ids, new_ids = (torch.randint(0, 3, (n,), generator=rng) for n in (20_000, 300))
    unit = torch.nn.functional.normalize
    whole = unit(new) @ unit(keys).T if metric == "cosine" else -torch.cdist(new, keys).square()
    whole[:, ~allowed] = -torch.inf
    whole[new_ids[:, None] != ids] = -torch.inf
    score, index = nearest(
        new.float(), Targets(keys.float(), allowed, ids), metric="l2" if metric == "l2" else "cosine", identity=new_ids
    )
    torch.testing.assert_close(score.double(), whole.max(1).values, atol=2e-5, rtol=0)
    assert (index == whole.argmax(1)).float().mean() > 0.995  # float32 may swap near ties


write_steps = st.lists(
    st.tuples(
        st.integers(0, 70),  # tokens
        st.booleans(),  # reference
        st.sampled_from([0.0, 0.01, 0.3, 3.0]),  # spread
        st.integers(-1, 3),  # highest identity, -1 for none
        st.booleans(),  # some boundary tokens
        st.integers(0, 60),  # discard or resize now and then
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(plan=write_steps, budget=st.integers(1, 64), config=st.sampled_from(BOUNDED))
def test_no_input_breaks_a_bounded_bank(
    plan: list[tuple[int, bool, float, int, bool, int]], budget: int, config: BankConfig
) -> None:
    bank = build_bank(replace(config, budget_tokens=budget))
    for step, (count, reference, spread, ids, boundary, event) in enumerate(plan):
        rng = torch.Generator().manual_seed(step)
        new = tokens(count, step, spread=spread)
        identity = None if ids < 0 else torch.randint(0, ids + 1, (count,), generator=rng)
        mergeable = torch.rand(count, generator=rng) > 0.4 if boundary else None
        bank.write(replace(new, identity=identity, mergeable=mergeable), step=step, reference=reference)
        if len(bank):
            bank.add_usage(torch.rand(len(bank), generator=rng))
            assert torch.isfinite(bank.view("key")).all()
        if event < 5:
            bank.discard(torch.rand(len(bank), generator=rng) > 0.5)
        elif event < 10:
            budget = max(1, event * 5)
            bank.resize(budget, step=step)
        assert len(bank) <= budget
        assert int(bank.is_reference().sum()) <= max(1, budget // 2)
        assert bank.nbytes <= budget * (3 * WIDTH * 4 + 30)
        copy = restore_bank(bank.snapshot())
        assert_equal_states(copy.snapshot(), bank.snapshot())


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=10), spread=st.sampled_from([0.01, 0.3, 3.0]))
def test_every_memory_token_is_held_merged_or_evicted(counts: list[int], spread: float) -> None:
    bank = build_bank(replace(ADAPTIVE, budget_tokens=40))
    for step, count in enumerate(counts):
        bank.write(tokens(count, step, spread=spread), step=step)
        told = bank.counts
        assert told["written"] == len(bank) + told["merged"] + told["evicted"]
