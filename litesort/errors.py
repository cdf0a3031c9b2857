"""Errors that a user can fix: the message is one line, "key=value is invalid: what to do"."""


class UserError(ValueError):
    """A setting or a file cannot be used; the message is one line that says what to do."""


class DataError(UserError):
    """The data, or a `data.*` setting, cannot be used."""


class ModelError(UserError):
    """The model, its checkpoint, or a setting of its training cannot be used."""


class DeploymentError(UserError):
    """An exported file, or a setting of its evaluation, cannot be used."""
