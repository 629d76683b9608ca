"""Datasets from captured replays of the game."""
