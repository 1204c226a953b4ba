"""FEELVOS (Voigtlaender et al. 2019)."""
