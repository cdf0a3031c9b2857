"""Decoded, resized pixels in one memory-mapped array (signatures; the bodies follow)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datamodules.images import Box


class PhotoSource(Protocol):
    """What the cache asks of a source."""

    @property
    def samples(self) -> list[Any]: ...  # each with .path (unique name) and .box
    def read(self, index: int, min_side: int | None) -> np.ndarray: ...
    def digest(self, index: int) -> bytes: ...  # images.content_digest(self.file(index), box); OSError allowed
    def file(self, index: int) -> Path | None: ...  # None where there is no file on disk


@dataclass(frozen=True)
class Pixels:
    """array: (N, S, S, 3) uint8, row i = source.samples[i]; broken: row -> reason (those rows are grey)."""

    array: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    path: Path | None = None


def default_cache_dir() -> Path:
    """`$LITESORT_CACHE`, else `$XDG_CACHE_HOME/litesort`, else `~/.cache/litesort`."""
    raise NotImplementedError


def open_pixels(
    source: PhotoSource,
    size: int,
    policy: str,
    *,
    where: str = "disk",
    cache_dir: str | Path | None = None,
    budget_gb: float = 20.0,
    workers: int | None = None,
    progress: bool = True,
) -> Pixels | None:
    """None where there can be no cache (one line says why): the caller then decodes on the fly (DecodingLoader)."""
    raise NotImplementedError
