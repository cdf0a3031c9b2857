"""Images of waste that are drawn, for a first run without data."""
