"""Structured pruning, and replay of pruning on a new copy of the network."""
