"""How a run is seen from elsewhere: files in its own prefix, and who reads them."""
