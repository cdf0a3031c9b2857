"""Download archives and unpack them."""
