"""Feature banks: bounded memory of tokens. They know tensors only."""

from engines.banks.build import bank_config, build_bank, restore_bank
from engines.banks.config import BankConfig
from engines.banks.protocol import FeatureBank, Tokens

__all__ = ["BankConfig", "FeatureBank", "Tokens", "bank_config", "build_bank", "restore_bank"]
