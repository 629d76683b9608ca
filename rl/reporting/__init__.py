"""Logging of a run: scalars by tag, TensorBoard, clocks, the progress line."""
