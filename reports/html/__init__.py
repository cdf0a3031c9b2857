"""Pages in HTML that need no server."""
