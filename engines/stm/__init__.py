"""Space-time memory networks (Oh et al. 2019)."""
