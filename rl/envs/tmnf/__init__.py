"""TrackMania Nations Forever through TMInterface: the link to the game, and cars driven over it."""
