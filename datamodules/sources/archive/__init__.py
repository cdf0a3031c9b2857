"""Archives: download, unpack, and sources of unpacked images."""
