"""Settings of the pixel cache."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litesort.errors import DataError


@dataclass(frozen=True)
class CacheConfig:
    """Settings of the pixel cache.

    Attributes:
        cache: "disk" (decoded once, shared by all runs), "memory" (decoded once a run) or "off" (decoded in each
            epoch).
        cache_dir: Folder of the cache; None is the default folder.
        cache_budget_gb: Largest size of the cache, GB, at least 0. If the cache would be larger, images are decoded in
            each epoch.

    Raises:
        DataError: A setting is invalid.
    """

    cache: Literal["disk", "memory", "off"] = "disk"
    cache_dir: str | Path | None = None
    cache_budget_gb: float = 20.0

    def __post_init__(self) -> None:
        if self.cache not in ("disk", "memory", "off"):
            raise DataError(f"data.cache={self.cache} is invalid: expected disk, memory or off")
        if not self.cache_budget_gb >= 0:
            raise DataError(
                f"data.cache_budget_gb={self.cache_budget_gb} is invalid: expected a number of at least 0, in GB"
            )
