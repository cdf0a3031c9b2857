"""Every choice of litesort, as YAML; importing this package registers the resolvers that the files use."""

import hashlib
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf


def slug(text: str, longest: int = 96) -> str:
    """Folder name for a job's overrides: letters, digits, ".", "_" and "-"; what is cut off is told apart by a hash."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", str(text)).strip("_.-") or "run"
    if len(name) <= longest:
        return name
    return f"{name[:longest]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def resume_dir(ckpt: str | None, fresh: str) -> str:
    """Folder of a run: the checkpoint's own when it resumes, else a fresh one."""
    return str(Path(ckpt).parent) if ckpt else fresh


def exported_dir(ckpt: str | None) -> str:
    """Folder of what is exported: beside the checkpoint."""
    return str(Path(ckpt).parent / "exported") if ckpt else "runs/exported"


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
        overrides: `key=value` as typed; keys must be there, and be values: a whole group cannot change.
        fixed: Top-level values that are set last.

    Raises:
        ModelError: An override that cannot go on top of a stored config.
    """
    from lightning_modules import ModelError

    cfg = OmegaConf.create(stored)
    for override in overrides:
        key, _, text = override.partition("=")
        before = OmegaConf.select(cfg, key, default=...) if re.fullmatch(r"[\w.]+", key) else ...
        if before is ... or isinstance(before, DictConfig | ListConfig):
            raise ModelError(
                f"{override} cannot change in a run that goes on: leave it out, or start a new run without ckpt"
            )
        OmegaConf.update(cfg, key, OmegaConf.from_dotlist([f"value={text}"]).value)
    for key, value in fixed.items():
        OmegaConf.update(cfg, key, value)
    return cfg


def trusted(stored: dict[str, Any], over: dict[str, Any]) -> DictConfig:
    """A config that came in a file, with values on top, if its `data` would build nothing but classes of `datamodules`:
    building is running, and a file is not to run anything.

    Args:
        stored: What `portable` returned.
        over: Values on top.

    Raises:
        ModelError: It names anything else, or has no `data`.
    """
    from lightning_modules import ModelError

    cfg = merged(stored, over)
    targets = _targets(OmegaConf.to_container(cfg.data, resolve=True))
    for target in targets:
        if not _is_class_of(target, "datamodules"):
            raise ModelError(f"ckpt: it reads its photos with {target}, not litesort's: say data=folder data.root=...")
    if not targets:
        raise ModelError("ckpt: it does not say which photos it was trained with: say data=folder data.root=...")
    return cfg


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


def as_typed(arguments: Sequence[str], lists: Sequence[str] = (), texts: Sequence[str] = ()) -> list[str]:
    """Command line in Hydra's grammar, for keys whose plain form has another meaning there.

    Args:
        arguments: As typed; with -m they are left alone, for then a comma does mean a sweep.
        lists: Keys of which `key=a,b` means a list.
        texts: Keys of which the whole value is text, whatever characters a path has in it.

    Example:
        >>> as_typed(["format=onnx,torch", "source=a b (1).jpg", "seed=1"], lists=["format"], texts=["source"])
        ['format=[onnx,torch]', "source='a b (1).jpg'", 'seed=1']
    """
    typed = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in lists and "," in value and value[0] not in "[\"'":
            argument = f"{key}=[{value}]"
        elif equals and key in texts and value not in ("", "null") and value[0] not in "\"'":
            text = value.replace("\\", "\\\\").replace("'", "\\'")
            argument = f"{key}='{text}'"
        typed.append(argument)
    return list(arguments) if {"-m", "--multirun"} & set(arguments) else typed


def data_name(cfg: DictConfig) -> str:
    """What the photos are called in reports: the kind of source, and where it lies."""
    kind = str(cfg.data.source._target_).split(".")[-2]
    return " ".join(str(part) for part in (kind, cfg.data.file or cfg.data.root) if part)


OmegaConf.register_new_resolver("slug", slug, replace=True)
OmegaConf.register_new_resolver("resume_dir", resume_dir, replace=True)
OmegaConf.register_new_resolver("exported_dir", exported_dir, replace=True)
