"""Published checkpoints: where they are, fetching, checking and converting them. Knows files, not networks."""
