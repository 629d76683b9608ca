"""Event files of TensorBoard read back as columns of scalars."""
