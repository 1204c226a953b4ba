"""Adaptive feature bank with uncertain-region refinement (Liang et al. 2020)."""
