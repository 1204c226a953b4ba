"""The exact bank and the matcher against the reference run, step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.banks import BankConfig, FeatureBank, Tokens, build_bank, restore_bank
from engines.banks.exact import ExactAdaptiveBank
from engines.banks.readout import Memory, read_bank

FIXTURE = Path(__file__).parents[1] / "fixtures" / "afb_urr" / "case_bank.npz"
ATOL = 1e-5  # an independent bank meets the reference within 3.1e-6


@pytest.fixture(scope="module")
def case() -> dict[str, NDArray[np.float32]]:
    with np.load(FIXTURE) as data:
        return dict(data)


def rows(array: NDArray[np.float32]) -> Tensor:
    """[width, n] of the fixture as [n, width]."""
    return torch.from_numpy(array).T.contiguous()


def open_banks(case: dict[str, NDArray[np.float32]], name: str) -> list[FeatureBank]:
    config = BankConfig(
        kind="adaptive",
        budget_tokens=int(case[f"{name}_class_budget"]),
        merge_threshold=float(case[f"{name}_merge_thres"]),
        update_rate=float(case[f"{name}_update_rate"]),
        exact=True,
    )
    banks = [build_bank(config) for _ in range(int(case[f"{name}_n"]))]
    for c, bank in enumerate(banks):
        first = {"key": rows(case[f"{name}_init_key_c{c}"]), "value": rows(case[f"{name}_init_val_c{c}"])}
        bank.write(Tokens(first), step=0, reference=True)
    return banks


def check_info(bank: FeatureBank, want: NDArray[np.float32]) -> None:
    assert isinstance(bank, ExactAdaptiveBank)
    np.testing.assert_array_equal(bank.arrival().numpy(), want[:, 0])
    np.testing.assert_allclose(bank.usage().numpy(), want[:, 1], atol=ATOL, rtol=0)


@pytest.mark.parametrize("name", ["s2", "s3"])
def test_bank_follows_the_reference_step_by_step(case: dict[str, NDArray[np.float32]], name: str) -> None:
    banks = open_banks(case, name)
    for step in case[f"{name}_steps"].tolist():
        prefix = f"{name}_u{step}_"
        query, query_value = rows(case[prefix + "q_in"][0]), case[prefix + "q_out"][0]
        for c, bank in enumerate(banks):
            readout = read_bank(query, Memory(bank.view("key"), bank.view("value")))
            bank.add_usage(readout.hits)
            got = np.concatenate([readout.values.T.numpy(), query_value])
            np.testing.assert_allclose(got, case[prefix + "mem_out"][0, c], atol=ATOL, rtol=0)
            check_info(bank, case[prefix + f"info_match_c{c}"])
            new = {"key": rows(case[prefix + f"new_key_c{c}"]), "value": rows(case[prefix + f"new_val_c{c}"])}
            bank.write(Tokens(new), step=step)
            np.testing.assert_allclose(bank.view("key").T, case[prefix + f"key_c{c}"], atol=ATOL, rtol=0)
            np.testing.assert_allclose(bank.view("value").T, case[prefix + f"val_c{c}"], atol=ATOL, rtol=0)
            check_info(bank, case[prefix + f"info_c{c}"])
    evicted = [bank.counts["evicted"] for bank in banks]
    np.testing.assert_array_equal(evicted, case[f"{name}_replace_n"])


def test_a_snapshot_between_two_steps_changes_nothing(case: dict[str, NDArray[np.float32]]) -> None:
    """The last scenario step again, on a restored bank."""
    banks = open_banks(case, "s3")
    for step in case["s3_steps"].tolist():
        prefix = f"s3_u{step}_"
        banks = [restore_bank(bank.snapshot()) for bank in banks]
        for c, bank in enumerate(banks):
            held = Memory(bank.view("key"), bank.view("value"))
            bank.add_usage(read_bank(rows(case[prefix + "q_in"][0]), held).hits)
            new = {"key": rows(case[prefix + f"new_key_c{c}"]), "value": rows(case[prefix + f"new_val_c{c}"])}
            bank.write(Tokens(new), step=step)
            np.testing.assert_allclose(bank.view("key").T, case[prefix + f"key_c{c}"], atol=ATOL, rtol=0)
            check_info(bank, case[prefix + f"info_c{c}"])
