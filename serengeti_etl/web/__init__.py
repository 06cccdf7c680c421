"""A small web server for pages of one's own: read-only, on this machine unless told otherwise."""
