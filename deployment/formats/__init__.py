"""Export formats, one module per format.

`FORMATS` maps names to formats. The module `NAME.py` of this folder defines the format NAME as `FORMAT`. The module
is imported on first use. `register` adds formats of other packages.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from deployment.formats.base import ExportedPredictor, Format, Predictor
from litesort.errors import DeploymentError

__all__ = ["FORMATS", "ExportedPredictor", "Format", "Predictor", "find_format", "find_model", "get_format", "register"]


class _Formats(Mapping[str, Format]):
    """Map names to the formats of this folder and to registered formats."""

    def __init__(self) -> None:
        self.registered: dict[str, Format] = {}
        self.modules = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")

    def __getitem__(self, name: str) -> Format:
        if name in self.registered:
            return self.registered[name]
        if name not in self.modules:
            raise KeyError(name)
        module = importlib.import_module(f"{__name__}.{name}")
        found: Format = module.FORMAT
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.modules, *self.registered]))

    def __len__(self) -> int:
        return len(list(iter(self)))


FORMATS = _Formats()


def register(formats: Mapping[str, Format] | None) -> None:
    """Register formats in this process. A format of the same name is replaced.

    Args:
        formats: Name -> format; None adds nothing.

    Raises:
        DeploymentError: A value is not a `Format`, or its name differs from its key.
    """
    for name, value in (formats or {}).items():
        if not isinstance(value, Format):
            raise DeploymentError(
                f"formats.{name}={value} is invalid: name a subclass of deployment.formats.Format as _target_"
            )
        if value.name != name:
            raise DeploymentError(
                f"formats.{name} is invalid: this format is named {value.name}, give formats.{value.name}"
            )
        FORMATS.registered[name] = value


def get_format(name: str, key: str = "format") -> Format:
    """Return the format with a name.

    Args:
        name: Name of the format.
        key: Config key of the name, for the error message.

    Raises:
        DeploymentError: The name is unknown. The message begins with `key` and lists the known names.
    """
    if name not in FORMATS:
        raise DeploymentError(f"{key}={name} is unknown: choose one or more of {','.join(FORMATS)}")
    return FORMATS[name]


def find_format(path: str | Path) -> Format | None:
    """Return the format of a file by its suffix; None for other files, e.g. checkpoints."""
    name = Path(path).name
    matching = [export_format for export_format in FORMATS.values() if name.endswith(export_format.suffix)]
    return max(matching, key=lambda export_format: len(export_format.suffix), default=None)


def find_model(path: str | Path) -> Path | None:
    """Return the exported model that a companion file (weights, metadata) belongs to; None for other files."""
    path = Path(path)
    for export_format in FORMATS.values():
        suffix = export_format.suffix
        model = path.with_suffix(Path(suffix).suffix or suffix)
        if path.suffix in export_format.companions and model.name.endswith(suffix) and model.is_file():
            return model
    return None
