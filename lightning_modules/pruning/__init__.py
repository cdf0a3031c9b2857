"""Remove channels, and repeat a removal on another copy of the network."""
