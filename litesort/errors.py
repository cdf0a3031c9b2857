"""Errors that a user can fix: the message is one line, "key=value is invalid: what to do"."""


class UserError(ValueError):
    """A setting or a file cannot be used; the message is one line that says what to do."""


class DataError(UserError):
    """The data, or a `data.*` setting, cannot be used."""


class ModelError(UserError):
    """The model, its checkpoint, or a setting of its training cannot be used."""


class DeploymentError(UserError):
    """An exported file, or a setting of its evaluation, cannot be used."""


def first_line(error: BaseException | str, longest: int = 200) -> str:
    """Return the first line of a message, at most `longest` characters; the type of the error if there is no message.

    Example:
        >>> first_line(OSError("disk full\\ndetails")), first_line(KeyError())
        ('disk full', 'KeyError')
    """
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:longest]
