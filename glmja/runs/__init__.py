"""Files that a training run leaves on disk."""
