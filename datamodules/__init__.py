"""Photos become batches on the device."""

from litesort.errors import DataError

__all__ = ["DataError"]
