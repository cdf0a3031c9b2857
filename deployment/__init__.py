"""What ships, and how it is judged."""

import importlib
from types import ModuleType

from litesort.errors import DeploymentError

__all__ = ["DeploymentError", "optional"]


def optional(module: str, purpose: str) -> ModuleType:
    """Import one of the packages that only exporting needs; DeploymentError says how to get it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0].replace("_", "-")
        raise DeploymentError(f"{purpose} needs the package {package}: pip install -e '.[export]'") from error
