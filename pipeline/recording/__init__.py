"""Datasets from the simulator: scripted drivers and policies drive, input files are driven again."""
