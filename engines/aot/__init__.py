"""AOT and DeAOT (Yang et al. 2021, 2022)."""
