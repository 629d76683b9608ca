"""Search for the fastest lap of the simulator, see `docs/best_known_laps.md`."""
