"""What every package shares; imports none of them."""
