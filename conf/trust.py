"""A config that came in a file: what may be built of it."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
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
    _settled(parts, "data")
    targets = [target for part in parts for target in _targets(part)]
    for target in targets:
        if not _is_class_of(target, "datamodules"):
            raise ModelError(f"ckpt: it reads its photos with {target}, not litesort's: say data=folder data.root=...")
    if not targets:
        raise ModelError("ckpt: it does not say which photos it was trained with: say data=folder data.root=...")
    return cfg


def familiar(cfg: DictConfig, composed: DictConfig, parts: Sequence[str]) -> DictConfig:
    """A config of which parts came in a file, if all that they would build is named in `conf/` too; else one line.

    Args:
        cfg: The config of a run that goes on or begins with a stored one, nothing of it built yet.
        composed: What this command line composed: what the user has named is the user's affair.
        parts: Top-level keys that came in the file.

    Raises:
        ModelError: A target that neither names.
    """
    from lightning_modules import ModelError

    texts = [file.read_text(encoding="utf-8") for file in Path(__file__).parent.rglob("*.yaml")]
    ours = {name for text in texts for name in re.findall(r"\b_target_: *([\w.]+)", text)}
    ours |= set(_targets(OmegaConf.to_container(composed, resolve=False)))
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    for key in parts:
        _settled(values.get(key), key)
        for target in _targets(values.get(key)):
            if target not in ours:
                raise ModelError(
                    f"ckpt: its {key} would run {target}, which no file of conf/ names: if it is yours, name it in "
                    "one; else take the weights alone into a new run, model.weights=FILE"
                )
    return cfg


def _settled(values: Any, key: str) -> None:
    """Refuse a value that is an interpolation still: Hydra fills in once more what it builds, after this look at it."""
    from lightning_modules import ModelError

    if "${" in str(values):
        raise ModelError(f"ckpt: its {key} holds a value that would become another one later: it is refused")


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
