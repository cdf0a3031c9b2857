"""What ships, and how it is judged."""


class DeploymentError(ValueError):
    """A deployed file, or a setting of its judging, cannot be used; the message is one line that says what to do."""
