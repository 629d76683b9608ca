"""Replays on disk: the HDF5 format, readers, labels and batches. Independent of networks."""
