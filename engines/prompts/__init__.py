"""References that are no masks (boxes, points, words) made into masks without trained weights."""
