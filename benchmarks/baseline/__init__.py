"""Plain implementations of the same mathematics, to measure against."""
