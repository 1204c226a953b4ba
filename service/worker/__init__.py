"""The GPU side: one process per device."""
