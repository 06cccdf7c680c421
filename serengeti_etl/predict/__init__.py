"""New photographs to predictions, by the same resize and decode as in training."""
