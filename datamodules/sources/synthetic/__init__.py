"""Synthetic images of waste, for a first run without data."""
