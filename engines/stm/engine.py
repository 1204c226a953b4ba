"""Engine `stm` and its light variant: a space-time memory per object, read beside the previous frame.

Source: STM, Oh et al. 2019; checked by tests/parity/stm.
"""

from __future__ import annotations

from engines.space_time.build import Family
from engines.space_time.engine import SpaceTimeSettings
from engines.stm.config import VARIANTS
from engines.stm.weights import load_network

SETTINGS = SpaceTimeSettings(reads_previous=True)
build = Family(VARIANTS, load_network, SETTINGS, query_encoder="Encoder_Q").build
