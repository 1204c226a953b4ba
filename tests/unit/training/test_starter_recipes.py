"""The script that trains the light starters takes the trunks, and for AFB-URR all of STM, from the shipped files."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from benchmarks.train_starters import DONORS, PHASES, engine_of, grafted, starter_recipe
from engines.checkpoint import STARTER_DIR

NEW = {
    "feelvos-t": ("aspp.", "decoder.", "embedding.", "head."),
    "stm-t": (
        "KV_",
        "Decoder.",
        "Encoder_M.conv1_",
        "Encoder_M.mean",
        "Encoder_M.std",
        "Encoder_Q.mean",
        "Encoder_Q.std",
    ),
    "afb-urr-t": ("decoder.local_",),
    "deaot-t": (),
    "deaot-t-again": (),
}
"""What each has that its donor has not."""


@pytest.mark.parametrize("recipe", PHASES)
def test_only_what_the_donor_lacks_stays(recipe: str) -> None:
    own = load_file(STARTER_DIR / f"{engine_of(recipe)}.safetensors")
    stm = recipe == "afb-urr-t"
    donor = {
        f"{name}": value + 1
        for name, value in load_file(STARTER_DIR / f"{'stm-t' if stm else 'deaot-t'}.safetensors").items()
    }
    mixed = grafted(own, donor, DONORS[recipe])
    assert mixed.keys() == own.keys()
    kept = {name for name in own if mixed[name] is own[name]}
    assert kept == {name for name in own if name.startswith(NEW[recipe])}


def test_recipes_are_those_of_the_model_card() -> None:
    assert {recipe: starter_recipe(recipe, 0).steps for recipe in PHASES} == {
        "stm-t": 1600,
        "afb-urr-t": 470,
        "feelvos-t": 810,
        "deaot-t": 1080,
        "deaot-t-again": 920,
    }
