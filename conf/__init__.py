"""Every choice of litesort, as YAML; importing this package registers the resolvers that the files use."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

# Settings of the split: a run that starts from a checkpoint takes them over where the command line is silent.
TAKEN_OVER = ("val_fraction", "test_fraction", "fold", "folds", "group_by", "group_block", "keep")


def slug(text: str, longest: int = 96) -> str:
    """Folder name for a job's overrides: letters, digits, ".", "_" and "-"; what is cut off is told apart by a hash."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", str(text)).strip("_.-") or "run"
    if len(name) <= longest:
        return name
    return f"{name[:longest]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def resume_dir(ckpt: str | None, fresh: str) -> str:
    """Folder of a run: the checkpoint's own when it resumes, else a fresh one: a mistyped path makes no folder."""
    return str(Path(ckpt).parent) if ckpt and Path(ckpt).is_file() else fresh


def exported_dir(ckpt: str | None) -> str:
    """Folder of what is exported: beside the checkpoint; a mistyped path makes no folder."""
    return str(Path(ckpt).parent / "exported") if ckpt and Path(ckpt).is_file() else "."


def portable(cfg: DictConfig) -> dict[str, Any]:
    """Plain form of a config for a checkpoint: its interpolations are kept, so that `data.root=...` later on still
    reaches all that it should; only those of Hydra's own, which end with the job, are filled in."""
    return plain(cfg, resolve=False) | {"run_dir": str(cfg.run_dir)}


def plain(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """A config as a dict of plain values, its interpolations filled in or kept."""
    values = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def merged(*parts: Any) -> DictConfig:
    """One config of several, later ones winning."""
    cfg = OmegaConf.merge(*parts)
    assert isinstance(cfg, DictConfig)
    return cfg


def on_top(stored: dict[str, Any], overrides: Sequence[str], **fixed: Any) -> DictConfig:
    """A stored config with the command line's values on top.

    Args:
        stored: What `portable` returned.
        overrides: `key=value` as typed; keys must be there, and be values: a list or a whole group cannot change.
        fixed: Top-level values that are set last.

    Raises:
        ModelError: An override that cannot go on top of a stored config.
    """
    from lightning_modules import ModelError

    cfg = OmegaConf.create(stored)
    for override in overrides:
        key, _, text = override.partition("=")
        before = OmegaConf.select(cfg, key, default=...) if re.fullmatch(r"[\w.]+", key) else ...
        value = OmegaConf.from_dotlist([f"value={text}"]).get("value")
        if isinstance(before, ListConfig) and before == value:
            continue
        if before is ... or isinstance(before, DictConfig | ListConfig):
            raise ModelError(
                f"{override} cannot change in a run that goes on: leave it out, or start a new run without ckpt"
            )
        OmegaConf.update(cfg, key, value)
    for key, value in fixed.items():
        OmegaConf.update(cfg, key, value)
    return cfg


def begun(cfg: DictConfig, stored: dict[str, Any], overrides: Sequence[str]) -> DictConfig:
    """A new run's config that starts from the network of a stored one.

    It takes over the model, and where the command line is silent the photos, their size and the seed, which splits
    them: photos that the network learned from must not become test photos.

    Args:
        cfg: The new run's config as composed.
        stored: What `portable` returned for the run whose network it is.
        overrides: `key=value` as typed for the new run.

    Raises:
        ModelError: The command line chooses a model.
    """
    from lightning_modules import ModelError

    said = {override.partition("=")[0].lstrip("+~") for override in overrides}
    if models := [key for key in said if key.split(".")[0] == "model"]:
        raise ModelError(f"{models[0]} does nothing with ckpt_init, whose network is taken: leave one of them out")
    whole, fresh = merged(cfg), OmegaConf.create(stored)
    OmegaConf.set_struct(whole, False)
    whole.model = fresh.model
    if "data" in said:
        for key in ("size", "resize", *TAKEN_OVER):
            if key in fresh.data:
                OmegaConf.update(whole.data, key, OmegaConf.select(fresh, f"data.{key}"), force_add=True)
    else:
        whole.data = fresh.data
    if "seed" not in said:
        whole.seed = fresh.seed
    for key in said:
        if key.startswith("data."):
            OmegaConf.update(whole, key, OmegaConf.select(cfg, key), force_add=True)
    return whole


def data_name(cfg: DictConfig) -> str:
    """What the photos are called in reports: the kind of source, and where it lies."""
    kind = str(cfg.data.source._target_).split(".")[-2]
    return " ".join(str(part) for part in (kind, cfg.data.file or cfg.data.root) if part)


OmegaConf.register_new_resolver("slug", slug, replace=True)
OmegaConf.register_new_resolver("resume_dir", resume_dir, replace=True)
OmegaConf.register_new_resolver("exported_dir", exported_dir, replace=True)
