"""Photos become batches on the device."""


class DataError(ValueError):
    """The data, or a `data.*` setting, cannot be used; the message is one line that says what to do."""
