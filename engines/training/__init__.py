"""Training and evaluation of the engines."""
