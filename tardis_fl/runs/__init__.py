"""A run's folder, its checkpoints, and what is read back from them."""
