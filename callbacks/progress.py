"""The progress bar, with one switch."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


def progress_bar(enabled: bool = True, refresh_rate: int = 10) -> pl.Callback:
    """Build a bar, or a callback that does nothing: Lightning refuses a bar where its trainer's switch says no.

    Args:
        enabled: The trainer's `enable_progress_bar`.
        refresh_rate: Batches between two redraws.
    """
    return TQDMProgressBar(refresh_rate=refresh_rate) if enabled else pl.Callback()
