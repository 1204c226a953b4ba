"""Finding objects that nobody pointed at: motion, ranking, and the label map that they become."""
