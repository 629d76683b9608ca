"""The doctor: what is wrong with a dataset, found before a training run finds it, and cleaned."""
