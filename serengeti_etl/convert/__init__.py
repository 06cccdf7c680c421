"""Photographs become shards: plan, fetch, resize, tar. Begin with ``season.py``."""
