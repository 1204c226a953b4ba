"""SpatialEmbeddings (Neven et al. 2019)."""
