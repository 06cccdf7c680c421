"""Object stores (S3, Google, Azure) and web servers, read and written by obstore."""
