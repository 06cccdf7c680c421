"""Trackers of experiments that a user may have beside the run's own page: each an extra."""
