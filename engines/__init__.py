"""Video object segmentation engines: networks, feature banks, training. Knows tensors, not the web."""
