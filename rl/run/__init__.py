"""A training run on disk: its folder, checkpoints, state, counters, and starts from another run."""
