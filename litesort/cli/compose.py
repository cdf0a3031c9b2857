"""Compose and merge configs. Importing this module registers the OmegaConf resolvers of conf/."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from litesort.cli.folders import fresh_dir, network_name, resume_dir
from litesort.cli.paths import CONF as CONF
from litesort.cli.resume import unnamed_keys
from litesort.cli.stored_config import REFERENCE, check_run, images_name, localised, lookup, resolve
from litesort.errors import ModelError

# Settings of the split. A run that starts from a checkpoint inherits them, unless the command line sets them.
TAKEN_OVER = ("val_fraction", "test_fraction", "fold", "folds", "group_by", "group_block", "class_fraction")


def slug(text: str, longest: int = 96) -> str:
    """Turn overrides into a folder name of letters, digits, ".", "_" and "-"; long names end in a hash."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", str(text)).strip("_.-") or "run"
    if len(name) <= longest:
        return name
    return f"{name[:longest]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def portable(cfg: DictConfig) -> dict[str, Any]:
    """Return a config as plain data for a checkpoint.

    References to other keys (`${data.root}`) are kept, so that a later `data.root=...` changes all values that depend
    on it. Every other `${...}` is resolved, because text from a checkpoint is never passed to a resolver.
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
    """Return a config as a dict of plain values, with its interpolations resolved or kept."""
    values = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def merge(*parts: Any) -> DictConfig:
    """Merge several configs; later ones win."""
    cfg = OmegaConf.merge(*parts)
    assert isinstance(cfg, DictConfig)
    return cfg


def merge_overrides(composed: DictConfig, stored: dict[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Merge overrides into the stored config of a resumed run.

    Addresses and folders are taken from the composed config, not from the file. Config groups are those of the stored
    run, with two exceptions: `logger=...` replaces the loggers, and `data=NAME`, of the same kind of source, allows
    the source to download.

    Args:
        composed: The config of the command line.
        stored: The config of a checkpoint, as `portable` returned it.
        overrides: Overrides of the command line, `key=value`; keys must exist and have single values.

    Raises:
        ModelError: An override cannot change a stored config, or the stored config names a class that is not allowed.
    """
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
        if key == "data" and _source_class(own) == _source_class(known):
            if "url" in own["data"]["source"]:
                values["data"]["source"]["url"] = own["data"]["source"]["url"]
            continue
        before = lookup(known, key) if re.fullmatch(r"[\w.]+", key) else ...
        if isinstance(before, list) and before == lookup(own, key):
            continue  # the same list as the stored one
        if before is ... or isinstance(before, dict | list):
            raise ModelError(
                f"{override} cannot change in a resumed run: leave it out, or start a new run without ckpt"
            )
        _set(values, key, lookup(own, key))
    return _check(values, own, [str(key) for key in stored])


def init_from(cfg: DictConfig, stored: dict[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Build the config of a new run that starts from the network of a checkpoint.

    The model is that of the checkpoint. Images, image size and seed are also those of the checkpoint, unless the
    command line sets them, so that training images of the checkpoint do not become test images.

    Args:
        cfg: The config of the new run, as composed.
        stored: The config of the checkpoint, as `portable` returned it.
        overrides: Overrides of the command line of the new run, `key=value`.

    Raises:
        ModelError: The command line sets a model, or the stored config names a class that is not allowed.
    """
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    if models := [key for key in given if key.split(".")[0] == "model"]:
        raise ModelError(f"{models[0]} does nothing with ckpt_init, which defines the network: leave one of them out")
    own = portable(cfg)
    fresh = localised(stored, own)
    values = {**own, "model": fresh.get("model")}
    if "data" in given:
        taken = {key: lookup(stored, f"data.{key}") for key in ("size", "resize", *TAKEN_OVER)}
        taken = {key: resolve(stored, value) for key, value in taken.items() if value is not None}
        values["data"] = {**own["data"], **taken}
    else:
        values["data"] = fresh.get("data")
    if "seed" not in given:
        values["seed"] = fresh.get("seed")
    for key in given:
        if key.startswith("data."):
            _set(values, key, lookup(own, key))
    return _check(values, own, ["model", "data", "seed"])


def _check(values: dict[str, Any], own: dict[str, Any], parts: Sequence[str]) -> DictConfig:
    """Check that all classes of a config may be built, and return it as a DictConfig.

    References are kept, so that a later run can override them again. OmegaConf must resolve them to the same values
    as `resolve`, which accepts plain references only.
    """
    resolved = check_run(values, own, parts)
    cfg = OmegaConf.create(values)
    if OmegaConf.to_container(cfg, resolve=True) != resolved:
        raise ModelError("ckpt: its config is ambiguous: it is refused")
    return cfg


def _source_class(values: dict[str, Any]) -> Any:
    return lookup(values, "data.source._target_")


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value in nested dicts; parents that are not dicts become dicts."""
    *parents, last = key.split(".")
    for name in parents:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[last] = value


def data_name(cfg: DictConfig) -> str:
    """Return the name of the data in reports: the kind of source, and its path."""
    return images_name(cfg.data)


OmegaConf.register_new_resolver("slug", slug, replace=True)
OmegaConf.register_new_resolver("fresh_dir", fresh_dir, replace=True)
OmegaConf.register_new_resolver("resume_dir", resume_dir, replace=True)
OmegaConf.register_new_resolver("network_name", network_name, replace=True)
OmegaConf.register_new_resolver("unnamed_keys", unnamed_keys, replace=True)
