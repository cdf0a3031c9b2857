"""A config that came in a file: what may be built of it."""

import importlib
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

DATA = ("data", "augment", "sampler")  # what an evaluation builds of a run's config


def trusted(stored: dict[str, Any], over: dict[str, Any]) -> DictConfig:
    """A run's config with values on top, of which nothing can be built but classes of `datamodules`.

    To build is to run, and a file is not to run anything. Targets of all that is not data are taken out.

    Args:
        stored: What `conf.portable` returned.
        over: Values on top.

    Raises:
        ModelError: Its data name anything else, or it has no data.
    """
    from lightning_modules import ModelError

    values = OmegaConf.to_container(OmegaConf.merge(stored, over), resolve=False)
    assert isinstance(values, dict)
    cfg = OmegaConf.create({key: node if key in DATA else _without_targets(node) for key, node in values.items()})
    assert isinstance(cfg, DictConfig)
    parts = [OmegaConf.to_container(cfg[key], resolve=True) for key in DATA if cfg.get(key)]
    targets = [target for part in parts for target in _targets(part)]
    for target in targets:
        if not _is_class_of(target, "datamodules"):
            raise ModelError(f"ckpt: it reads its photos with {target}, not litesort's: say data=folder data.root=...")
    if not targets:
        raise ModelError("ckpt: it does not say which photos it was trained with: say data=folder data.root=...")
    return cfg


def _without_targets(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_targets(value) for key, value in node.items() if key != "_target_"}
    return [_without_targets(value) for value in node] if isinstance(node, list) else node


def _targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [str(node[key]) for key in ("_target_",) if key in node] + _targets(list(node.values()))
    return [target for part in node for target in _targets(part)] if isinstance(node, list) else []


def _is_class_of(target: str, package: str) -> bool:
    module, _, name = target.rpartition(".")
    if not re.fullmatch(rf"{package}(\.[a-z_0-9]+)+", module):
        return False
    try:  # imports none but modules of the package: what these have imported themselves has another __module__
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and found.__module__ == module
