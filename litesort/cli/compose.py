"""Every choice of litesort, as YAML; importing this package registers the resolvers that the files use."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from litesort.cli.folders import fresh_dir, resume_dir
from litesort.cli.paths import CONF as CONF
from litesort.cli.stored_config import REFERENCE, check_run, images_name, localised, lookup, resolve

# Settings of the split: a run that starts from a checkpoint takes them over where the command line is silent.
TAKEN_OVER = ("val_fraction", "test_fraction", "fold", "folds", "group_by", "group_block", "class_fraction")


def slug(text: str, longest: int = 96) -> str:
    """Folder name for a job's overrides: letters, digits, ".", "_" and "-"; what is cut off is told apart by a hash."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", str(text)).strip("_.-") or "run"
    if len(name) <= longest:
        return name
    return f"{name[:longest]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def portable(cfg: DictConfig) -> dict[str, Any]:
    """Plain form of a config for a checkpoint.

    References to other keys (`${data.root}`) are kept, so that `data.root=...` later on still reaches all that it
    should. Everything else in `${...}` is filled in: what a checkpoint holds is never given to a resolver.
    """
    return {str(key): _portable(cfg, key) for key in cfg} | {"run_dir": str(cfg.run_dir)}


def _portable(parent: Any, key: Any) -> Any:
    node = parent._get_node(key)
    raw = node._value() if node is not None else None
    if OmegaConf.is_interpolation(parent, key):
        if "${" not in REFERENCE.sub("", str(raw)) and "\\" not in str(raw):
            return raw
        value = parent[key]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    if isinstance(node, DictConfig) and isinstance(raw, dict):
        return {name: _portable(node, name) for name in node}
    if OmegaConf.is_list(node) and isinstance(raw, list):
        return [_portable(node, place) for place in range(len(raw))]
    return raw


def plain(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """A config as a dict of plain values, its interpolations filled in or kept."""
    values = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def merge(*parts: Any) -> DictConfig:
    """One config of several, later ones winning."""
    cfg = OmegaConf.merge(*parts)
    assert isinstance(cfg, DictConfig)
    return cfg


def merge_overrides(composed: DictConfig, stored: dict[str, Any], overrides: Sequence[str]) -> DictConfig:
    """The config of a run that goes on: the stored one, with the command line's values on top.

    Addresses and folders are this computer's. Groups are the stored run's, but for two: `logger=...` replaces the
    loggers, and `data=NAME`, which must be the run's own kind of data, allows its source to download.

    Args:
        composed: What the command line composed.
        stored: What `portable` returned, read from a checkpoint.
        overrides: `key=value` as typed; keys must be there, and be values.

    Raises:
        ModelError: An override that cannot go on top of a stored config, or a config that would run something.
    """
    from litesort.errors import ModelError

    own = portable(composed)
    values = localised(stored, own) | {"run_dir": own["run_dir"], "imports": own.get("imports", [])}
    known = resolve(values)
    for override in overrides:
        key = override.partition("=")[0]
        if key == "logger":
            values["logger"], known["logger"] = own["logger"], own["logger"]
            continue
        if key == "imports":
            continue
        if key == "data" and _kind(own) == _kind(known):
            if "url" in own["data"]["source"]:
                values["data"]["source"]["url"] = own["data"]["source"]["url"]
            continue
        before = lookup(known, key) if re.fullmatch(r"[\w.]+", key) else ...
        if isinstance(before, list) and before == lookup(own, key):
            continue  # the stored list, said again
        if before is ... or isinstance(before, dict | list):
            raise ModelError(
                f"{override} cannot change in a run that goes on: leave it out, or start a new run without ckpt"
            )
        _put(values, key, lookup(own, key))
    return _checked(values, own, [str(key) for key in stored])


def init_from(cfg: DictConfig, stored: dict[str, Any], overrides: Sequence[str]) -> DictConfig:
    """A new run's config that starts from the network of a stored one.

    It takes over the model, and where the command line is silent the images, their size and the seed, which splits
    them: images that the network learned from must not become test images.

    Args:
        cfg: The new run's config as composed.
        stored: What `portable` returned for the run whose network it is, read from a checkpoint.
        overrides: `key=value` as typed for the new run.

    Raises:
        ModelError: The command line chooses a model, or the stored config would run something.
    """
    from litesort.errors import ModelError

    said = {override.partition("=")[0].lstrip("+~") for override in overrides}
    if models := [key for key in said if key.split(".")[0] == "model"]:
        raise ModelError(f"{models[0]} does nothing with ckpt_init, whose network is taken: leave one of them out")
    own = portable(cfg)
    fresh = localised(stored, own)
    values = {**own, "model": fresh.get("model")}
    if "data" in said:
        taken = {key: lookup(stored, f"data.{key}") for key in ("size", "resize", *TAKEN_OVER)}
        taken = {key: resolve(stored, value) for key, value in taken.items() if value is not None}
        values["data"] = {**own["data"], **taken}
    else:
        values["data"] = fresh.get("data")
    if "seed" not in said:
        values["seed"] = fresh.get("seed")
    for key in said:
        if key.startswith("data."):
            _put(values, key, lookup(own, key))
    return _checked(values, own, ["model", "data", "seed"])


def _checked(values: dict[str, Any], own: dict[str, Any], parts: Sequence[str]) -> DictConfig:
    """The config of values that may be built.

    Its references stay, so that the run's own checkpoint can be given other values once more. OmegaConf must read them
    as `resolve` does, which has seen that there is nothing else to read.
    """
    from litesort.errors import ModelError

    resolved = check_run(values, own, parts)
    cfg = OmegaConf.create(values)
    if OmegaConf.to_container(cfg, resolve=True) != resolved:
        raise ModelError("ckpt: its config can be read in two ways: it is refused")
    return cfg


def _kind(values: dict[str, Any]) -> Any:
    return lookup(values, "data.source._target_")


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value of nested dicts; what is on the way and is no dict becomes one."""
    *parents, last = key.split(".")
    for name in parents:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[last] = value


def data_name(cfg: DictConfig) -> str:
    """What the photos are called in reports: the kind of source, and where it lies."""
    return images_name(cfg.data)


OmegaConf.register_new_resolver("slug", slug, replace=True)
OmegaConf.register_new_resolver("fresh_dir", fresh_dir, replace=True)
OmegaConf.register_new_resolver("resume_dir", resume_dir, replace=True)
