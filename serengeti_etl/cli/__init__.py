"""The command line; the only package that prints. Each command imports what it needs when run."""
