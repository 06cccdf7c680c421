"""Label files become one table of images, and the sites are divided into splits."""
