"""Pages over many runs: an overview, and each run's own page, out of folders and buckets."""
