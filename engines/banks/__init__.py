"""Feature banks: bounded memory of tokens. They know tensors only."""
