"""Batches to a model: recipe, network, loop, checkpoints, metrics."""
