"""Export, parity, latency and score of a trained network."""

import importlib
from types import ModuleType

from litesort.errors import DeploymentError
from litesort.lazy import attach

__all__ = ["DeploymentError", "optional"]


def optional(module: str, purpose: str, extra: str = "export") -> ModuleType:
    """Import an optional package.

    Args:
        module: Its import name.
        purpose: Setting or feature that needs it, for the message.
        extra: The extra of pyproject.toml that installs it; "" if no extra does.

    Raises:
        DeploymentError: The package is missing; the message gives the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0].replace("_", "-")
        wanted = f"-e '.[{extra}]'" if extra else package
        raise DeploymentError(f"{purpose} needs the package {package}: pip install {wanted}") from error


__getattr__, __dir__ = attach(
    __name__,
    {
        "open_exported": "exported_teacher",
        "Score": "score",
    },
)
