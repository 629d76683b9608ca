"""Stage 1: an encoder that learns to see, from frames alone."""
