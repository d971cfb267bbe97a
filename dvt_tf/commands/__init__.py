"""The commands of `dvt`, a file each. TensorFlow is imported inside them, so that `dvt --help` answers at once."""
