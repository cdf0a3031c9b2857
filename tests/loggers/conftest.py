"""A tiny network and tiny images, trained by a real Trainer, and W&B without an account."""

import os
import warnings

import pytest
from tiny_training import data, make_module, make_trainer, offline_run

__all__ = ["data", "make_module", "make_trainer", "offline_run"]


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Hide the W&B settings and the home folder of the user, and close the run of a test."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # W&B's own code triggers these warnings
        yield
        wandb.finish()
