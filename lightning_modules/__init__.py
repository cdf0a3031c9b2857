"""Batches teach a network."""


class ModelError(ValueError):
    """The model, or a setting of its training, cannot be used; the message is one line that says what to do."""
