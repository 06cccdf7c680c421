"""Shards to batches: order, cache, decode, loader. Torch lives here; Dask and libvips never do."""
