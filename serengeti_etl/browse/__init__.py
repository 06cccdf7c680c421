"""A page over a dataset in a folder or bucket: what is in it, picture by picture."""
