"""Engine `afb-urr` and its light variant: a feature bank per channel, refinement where in doubt.

Source: AFB-URR, Liang et al. 2020; checked by tests/parity/afb_urr.
"""

from __future__ import annotations

from engines.afb_urr.config import VARIANTS
from engines.afb_urr.weights import load_network
from engines.space_time.build import Family
from engines.space_time.engine import SpaceTimeSettings

SETTINGS = SpaceTimeSettings(reads_previous=False, update_rate=0.1, merge_threshold=0.95)
build = Family(VARIANTS, load_network, SETTINGS, query_encoder="encoder_q").build
