"""HTML pages that need no server, no network and no other file."""
