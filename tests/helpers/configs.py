"""Composed configs, and overrides that make a run small and fast."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from litesort.cli.compose import CONF
from litesort.cli.quoting import quote_overrides

# One timed round at batch size 1, for the model and for a small reference network.
QUICK_LATENCY = (
    "latency.settings.seconds=0", "latency.settings.min_rounds=1", "latency.batches=[1]", "latency.images=2",
    "score.reference=resnet10t", "score.reference_size=32",
)  # fmt: skip
# The smallest ResNet of timm, without pretrained weights.
TINY_NET = ("model=timm", "model.name=resnet10t", "model.pretrained=false")
# An image folder at 32 px, in small batches.
SMALL_FOLDER = ("data=folder", "data.size=32", "data.batch_size=8")
# The CPU, without a progress bar.
QUIET_CPU = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
# All of the above: a run of seconds, which needs `data.root`.
TINY_RUN = (*TINY_NET, *SMALL_FOLDER, *QUIET_CPU, *QUICK_LATENCY)


def composed(config: str, *overrides: str) -> DictConfig:
    """Compose `conf/{config}.yaml` with overrides, as Hydra does for a command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config, overrides=list(overrides))


def composed_quoted(config: str, *overrides: str) -> DictConfig:
    """Compose a config from a command line of export.py or predict.py, which quote paths and lists first."""
    texts = ("ckpt", "source", "csv", "json")
    return composed(config, *quote_overrides(overrides, lists=("format", "precision"), texts=texts))
