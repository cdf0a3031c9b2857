"""Configs from checkpoints and exported files: checked and built without running code that the file names.

A checkpoint and an exported file contain the config of their training. Its values are not trusted:

- `resolve` fills in references to other keys (`${data.root}`) and refuses every other `${...}`. OmegaConf's resolvers,
  which can read environment variables and decode text, never get a value of a file.
- An evaluation builds the data module and its source alone, from classes of `datamodules`, with plain values:
  `stored_data` and `stored_data_builder`. Hydra's `instantiate` is not used.
- A resumed run (`ckpt=`, `ckpt_init=`) may only build classes that `conf/` or the command line names for the same part
  of the config, and kornia's augmentations: `check_run`.
- Addresses and output folders (`LOCAL_KEYS`) are never taken from a file.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from litesort.cli.paths import CONF
from litesort.cli.validate import check_values
from litesort.errors import ModelError
from litesort.plain_data import check_size, parse_yaml
from litesort.settings import group_settings

Values = dict[str, Any]

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")  # a reference to another key
MAX_VALUES = 100_000  # of a resolved config
# Keys of network addresses and output folders; their values come from this machine.
LOCAL_KEYS = re.compile(
    r"url|urls|uri|host|hostname|port|proxy|endpoint|server|address|storage|entity|artifact_location|trial"
    r"|dirpath|folder|dir|out|output|.*_(?:url|uri|host|endpoint|dir)"
)
ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://|[\\/]{2}")  # https://..., \\server\share
READ_BY_SOURCE = ("root", "file")  # settings of `data` that only its source refers to
# kornia's augmentations only calculate; RandomDissolving downloads a network.
KORNIA = re.compile(r"kornia\.augmentation\.(?:auto\.|container\.)?(?!RandomDissolving)[A-Z]\w*")
HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_"}
# Part of a config -> other parts whose objects it may hold, by reference.
HOLDS = {"data": ("sampler", "augment"), "export": ("score", "latency")}
FILE_NAME_KEYS = {"logger": ("name", "version", "sub_dir"), "export": ("name",)}  # parts of paths below a folder
NO_SOURCE = "give data=folder data.root=..."


def resolve(config: Mapping[str, Any], part: Any = None) -> Any:
    """Fill in the plain references of a config; the result is plain data without any `${`.

    A reference is a whole value (text, a number, a list or a mapping) or a part of longer text
    (`${run_dir}/mlflow.db`). The result is not searched for references again.

    Args:
        config: Plain data; references are absolute.
        part: Part of the config to resolve; None: all of it.

    Raises:
        ModelError: Another kind of `${...}`, an unknown key, a cycle, or too many values.
    """
    try:
        check_size(config, max_nodes=MAX_VALUES)
    except ValueError as error:
        raise ModelError(f"ckpt: its config is refused: {error}") from error
    return _Resolver(config).value(config if part is None else part, ())


class CommandLineText(str):
    """Text from the command line; it may be an address, unlike text from the file."""


class _Resolver:
    """Resolve one config, with a limit on the number of values."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.remaining = MAX_VALUES

    def value(self, node: Any, open_names: tuple[str, ...]) -> Any:
        self.remaining -= 1
        if self.remaining < 0 or len(open_names) > 32:
            raise ModelError("ckpt: its config is refused: its references expand to too many values")
        if isinstance(node, Mapping):
            return {key: self.value(item, open_names) for key, item in node.items()}
        if isinstance(node, list | tuple):
            return [self.value(item, open_names) for item in node]
        return self._text(node, open_names) if type(node) is str and "${" in node else node

    def _text(self, text: str, open_names: tuple[str, ...]) -> Any:
        whole = REFERENCE.fullmatch(text)
        if whole:
            return self._named(whole[1], open_names)
        if "\\" in text:  # an escape of OmegaConf, which would read the text differently
            raise _not_plain(text)
        filled = REFERENCE.sub(lambda found: self._as_text(found[1], open_names), text)
        if "${" in filled:
            raise _not_plain(text)
        return filled

    def _as_text(self, name: str, open_names: tuple[str, ...]) -> str:
        value = self._named(name, open_names)
        if isinstance(value, dict | list):
            raise ModelError(f"ckpt: its config puts {name}, which is a list or a mapping, into text: it is refused")
        return str(value)

    def _named(self, name: str, open_names: tuple[str, ...]) -> Any:
        if name in open_names:
            raise ModelError(f"ckpt: its config defines {name} by a cycle of references: it is refused")
        open_names = (*open_names, name)
        node: Any = self.config
        for part in name.split("."):
            if type(node) is str and "${" in node:  # a parent of the key is a reference
                node = self._text(node, open_names)
            node = _child(node, part)
            if node is _MISSING:
                raise ModelError(f"ckpt: its config refers to {name}, which does not exist: it is refused")
        return self.value(node, open_names)


_MISSING = object()


def _child(node: Any, key: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(key, _MISSING)
    if isinstance(node, list | tuple) and key.isdecimal() and int(key) < len(node):
        return node[int(key)]
    return _MISSING


def lookup(values: Any, name: str) -> Any:
    """Return the value at a dotted key of plain data; `...` if there is none."""
    for part in name.split("."):
        values = _child(values, part)
    return ... if values is _MISSING else values


def _not_plain(text: str) -> ModelError:
    return ModelError(f"ckpt: its config holds {text[:60]!r}, which is not a plain reference to a key: it is refused")


# For an evaluation: the data of the training.


def stored_data(config: Mapping[str, Any], given: Mapping[str, Any]) -> Values:
    """Return the settings of the data module that an evaluation builds, from a stored config.

    Sampler and augmentation are left out, since an evaluation uses neither. With these settings no source downloads.

    Args:
        config: The stored config.
        given: Settings of `data` from the command line, as plain values; they win.

    Raises:
        ModelError: The config has no data, or its settings cannot be used.
    """
    given = {key: CommandLineText(value) if isinstance(value, str) else value for key, value in given.items()}
    data = config.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("source"), dict):
        raise ModelError(f"ckpt: its config does not name its training images: {NO_SOURCE}")
    kept = {key: value for key, value in data.items() if key not in ("sampler", "augment", "classes")}
    kept = {key: None if LOCAL_KEYS.fullmatch(str(key)) else value for key, value in kept.items()} | given
    source = {key: None if LOCAL_KEYS.fullmatch(str(key)) else value for key, value in data["source"].items()}
    source |= {key: given[key] for key in ("root", "file", "cache_dir") if key in given and key in source}
    settings = resolve({**config, "data": {**kept, "source": source}}, {**kept, "source": source})
    for key, value in _texts({**settings, **settings["source"]}):
        if ADDRESS.match(value) and not isinstance(value, CommandLineText):
            raise ModelError(f"ckpt: its data.{key} is an address, and none is taken from a file: {NO_SOURCE}")
    _data_class(settings.get("_target_"), "ImageDataModule")
    _data_class(settings["source"].get("_target_"), "Source")
    for node in _objects(settings):
        if "_target_" in node and node is not settings and node is not settings["source"]:
            raise ModelError(f"ckpt: its data would build {str(node['_target_'])[:80]}: it is refused: {NO_SOURCE}")
    check_values(settings, "data.")
    return settings


def stored_name(config: Mapping[str, Any]) -> str | None:
    """Return the name of the run of a stored config."""
    name = config.get("name")
    return str(resolve(config, name)) if isinstance(name, str) else None


def stored_data_builder(settings: Values) -> Callable[..., Any]:
    """Return a function that builds the data module of `stored_data`; it takes further keyword arguments.

    Raises:
        ModelError: A setting is unknown to the classes.
    """
    module = _data_class(settings["_target_"], "ImageDataModule")
    source = _data_class(settings["source"]["_target_"], "Source")
    source_arguments, arguments = _arguments(settings["source"]), _arguments(settings)
    _fits(source, source_arguments, "data.source")
    arguments = {key: value for key, value in arguments.items() if key not in READ_BY_SOURCE} | {"source": None}
    _fits(module, group_settings(module, arguments), "data")

    def build(**given: Any) -> Any:
        return module(**group_settings(module, arguments | {"source": source(**source_arguments)} | given))

    return build


def images_name(data: Any) -> str:
    """Return the name of the data in reports: the kind of source, and its path."""
    kind = str(data["source"]["_target_"]).split(".")[-1].removesuffix("Source").lower()
    return " ".join(str(part) for part in (kind, data.get("file") or data.get("root")) if part)


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield key and value of each text in plain data."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _texts(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, key)


def _arguments(settings: Values) -> Values:
    return {key: value for key, value in settings.items() if key not in HYDRA_KEYS}


def _fits(target: type, arguments: Values, where: str) -> None:
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise ModelError(f"ckpt: its {where} does not fit {target.__name__} ({error}): {NO_SOURCE}") from error


def _data_class(target: Any, base: str) -> type:
    """Return a class that `datamodules` defines and that is `base`, by name, or derived from it."""
    module, _, name = str(target).rpartition(".")
    found = None
    if isinstance(target, str) and re.fullmatch(r"datamodules(\.[a-z][a-z_0-9]*)*", module):
        try:  # only modules of the package; classes that these import have another __module__
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            found = None
    if (
        not isinstance(found, type)
        or found.__module__.split(".")[0] != "datamodules"
        or base not in [c.__name__ for c in found.__mro__]
    ):
        raise ModelError(
            f"ckpt: its images are read by {str(target)[:80]}, which is not a class of litesort: {NO_SOURCE}"
        )
    return found


# For a resumed run, or a run that starts from the network of another run.


def localised(stored: Mapping[str, Any], own: Mapping[str, Any]) -> Values:
    """Return a stored config with the addresses and folders of this machine.

    Keys of addresses and folders get the value of the config of the command line, if it has the same `_target_` at this
    place. Otherwise they get the value of the same `_target_` in conf/, or are left out. Sources get no address, so a
    download needs `data=NAME` on the command line.

    Args:
        stored: Plain data.
        own: The config of the command line, as `compose.portable` returned it.
    """
    return {key: value for key, value in _localised(stored, own, "").items() if value is not ...}


def _localised(node: Any, own: Any, section: str) -> Any:
    if isinstance(node, list):
        return [_localised(item, None, section) for item in node]
    if not isinstance(node, dict):
        return node
    target = node.get("_target_")
    same = isinstance(own, dict) and (target is None or own.get("_target_") == target)
    defaults = own if same else _defaults(section, target)
    kept = {}
    for key, value in node.items():
        inside = section or str(key)
        if not _is_local(str(key), value):
            kept[key] = _localised(value, own.get(key) if same else None, inside)
        elif inside == "data" and str(key) not in ("cache_dir", "quarantine_dir"):
            kept[key] = None
        elif key in defaults:
            kept[key] = defaults[key]
    return kept


def _is_local(key: str, value: Any) -> bool:
    """Return whether a key holds an address or a folder. Keys whose value has a `_target_` do not."""
    return LOCAL_KEYS.fullmatch(key) is not None and not (isinstance(value, dict) and "_target_" in value)


def check_run(values: Mapping[str, Any], own: Mapping[str, Any], parts: Sequence[str]) -> Values:
    """Resolve the config of a run of which parts come from a file, and check all classes that it would build.

    Args:
        values: The config, with unresolved references.
        own: The config of the command line; classes that the user names are allowed.
        parts: Top-level keys that come from the file.

    Raises:
        ModelError: A part names a class that neither conf/ nor the command line names for it.
    """
    resolved: Values = resolve(values)
    for key in parts:
        allowed = {target for name in (key, *HOLDS.get(key, ())) for target in _allowed(name, own)}
        for node in _objects(resolved.get(key)):
            target = node.get("_target_")
            known = isinstance(target, str) and (
                target in allowed or (key in ("data", "augment") and KORNIA.fullmatch(target) is not None)
            )
            if "_target_" in node and not known:
                raise ModelError(
                    f"ckpt: its {key} would run {str(target)[:80]}, which no file of conf/ names: if you trust it, "
                    "add it to conf/; else start a new run from the weights, model.weights=FILE"
                )
            if special := [name for name in node if re.fullmatch(r"_.*_", str(name)) and name not in HYDRA_KEYS]:
                raise ModelError(
                    f"ckpt: its {key} has the key {str(special[0])[:40]}, which Hydra reads: it is refused"
                )
            _only_names(key, node)
        if key == "data":
            for name, value in _texts(resolved[key]):
                if ADDRESS.match(value) and value not in dict(_texts(own.get(key))).values():
                    raise ModelError(f"ckpt: its data.{name} is an address, and none is taken from a file: {NO_SOURCE}")
    return resolved


def _only_names(part: str, node: Values) -> None:
    """Refuse a path in place of a file name."""
    if part == "logger" and not str(node.get("_target_")).startswith("pytorch_lightning.loggers."):
        return  # the name of a W&B run is not a file name
    for key in FILE_NAME_KEYS.get(part, ()):
        if re.search(r"[/\\:]|^\.\.", str(node.get(key, ""))):
            raise ModelError(f"ckpt: its {part}.{key} is a path, and no folder is taken from a file: it is refused")


def _allowed(part: str, own: Mapping[str, Any]) -> set[Any]:
    named = [*_objects(_conf(_folders()).get(part)), *_objects(own.get(part))]
    return {node["_target_"] for node in named if isinstance(node.get("_target_"), str)}


def _objects(node: Any) -> Iterator[Values]:
    """Yield every mapping in plain data."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from _objects(value)


def _defaults(section: str, target: Any) -> Values:
    """Return the values of the configs for a target, without those that need a resolver."""
    for node in _objects(_conf(_folders()).get(section)) if target else ():
        if node.get("_target_") == target:
            return {key: value for key, value in node.items() if not re.search(r"\$\{[^}]*[^\w.}]", str(value))}
    return {}


def _folders() -> tuple[Path, ...]:
    """Return the folders of YAML files: conf/, then those of `hydra.searchpath` on the command line."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    others = (Path(source.path) for source in sources if source.schema == "file" and source.path)
    return (CONF, *(folder for folder in dict.fromkeys(others) if folder.is_dir() and folder != CONF))


@cache
def _conf(folders: tuple[Path, ...]) -> dict[str, list[Any]]:
    """Return part of the config -> its values in each YAML file of these folders, without Hydra's own groups."""
    parts: dict[str, list[Any]] = {}
    for top, file in [(folder, file) for folder in folders for file in sorted(folder.rglob("*.yaml"))]:
        text = file.read_text(encoding="utf-8")
        values = parse_yaml(text) or {}
        group = file.relative_to(top).parts[0]
        if group == "hydra":
            continue
        whole = file.parent == top or re.search(r"^# @package _global_", text, re.MULTILINE)
        for key, value in (values if whole else {group: values}).items():
            parts.setdefault(key, []).append(value)
    return parts
