"""Datasets from the simulator, driven by scripted drivers, by policies or from input files."""
