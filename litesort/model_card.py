"""Check the metadata of checkpoints and exported files: classes, network, preprocessing, config.

Both kinds of file use the same check. After it, every value has the expected type, and no argument of the network names
a file, folder or address.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from litesort.plain_data import check_size

MAX_SIZE = 1 << 14  # px
MAX_CLASSES = 100_000
MAX_CHANNELS = 1 << 20
RESIZE = ("pad", "squash", "crop")
# Arguments of timm's networks that name files, addresses or folders, or that litesort sets itself.
REFUSED_ARGUMENTS = {"checkpoint_path", "cache_dir", "num_classes", "model_name", "features_only", "scriptable"}
REFUSED_WORDS = re.compile(r"pretrained|checkpoint|weights|url|hub|cache|path$|_file$|^file")
HARMLESS_PATHS = re.compile(r"drop_path")  # stochastic depth


def card_error(card: Any, complete: bool = False) -> str | None:
    """Return what is wrong with a model card, in a few words; None if it is valid.

    Args:
        card: A card of `lightning_modules.checkpoint.make_model_card`, read from a file.
        complete: Whether it must have the image size and the resize policy.
    """
    try:
        check_size(card)
    except ValueError as error:
        return str(error)
    if not isinstance(card, Mapping):
        return "it is not a mapping"
    if reason := _not_plain(card, "it"):
        return reason
    checks: dict[str, Callable[[Any], str | None]] = {
        "classes": _classes,
        "model": lambda model: _model(model, len(card["classes"])),
        "preprocessing": lambda values: _preprocessing(values, complete),
        "config": lambda config: None if isinstance(config, dict) else "is not a mapping",
        "versions": _versions,
    }
    for key, check in checks.items():
        if key not in card:
            return f"{key} is missing"
        if reason := check(card[key]):
            return f"{key} {reason}"
    for key, check in {"class_counts": _counts, "origin": _origin, "pruning": _pruning}.items():
        if key in card and (reason := check(card[key])):
            return f"{key} {reason}"
    return None


def arguments_error(arguments: Any) -> str | None:
    """Return what is wrong with the arguments of a timm network; None if all are plain and none names a file.

    >>> arguments_error({"drop_path_rate": 0.1, "img_size": [64, 64]})
    >>> arguments_error({"checkpoint_path": "a.pth"})
    "must not have the argument 'checkpoint_path'"
    """
    if not isinstance(arguments, Mapping):
        return "is not a mapping"
    for name, value in arguments.items():
        if not isinstance(name, str) or not name.isidentifier():
            return f"has an argument that is not a name: {str(name)[:40]!r}"
        if name in REFUSED_ARGUMENTS or REFUSED_WORDS.search(HARMLESS_PATHS.sub("", name)):
            return f"must not have the argument {name!r}"
        if not _is_plain_argument(value):
            return f"has the argument {name!r}, which is not a number, a word, or a list of these"
    return None


def _is_plain_argument(value: Any, depth: int = 0) -> bool:
    if isinstance(value, list | tuple):
        return depth < 4 and all(_is_plain_argument(item, depth + 1) for item in value)
    if isinstance(value, str):
        return re.fullmatch(r"[\w.,+-]*", value) is not None
    return value is None or type(value) in (bool, int, float)


def _not_plain(value: Any, where: str) -> str | None:
    """Describe the first value that is not None, a bool, a number, text, a list or a mapping of these."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) not in (str, int):
                return f"{where} has a key of type {type(key).__name__}"
            if reason := _not_plain(item, f"{where}.{key}"):
                return reason
        return None
    if type(value) in (list, tuple):
        return next((reason for item in value if (reason := _not_plain(item, where))), None)
    if value is None or type(value) in (bool, int, float, str):
        return None
    return f"{where[:80]} is of type {type(value).__name__}, not plain data"


def _classes(names: Any) -> str | None:
    if not isinstance(names, list | tuple) or not 1 < len(names) <= MAX_CLASSES:
        return "is not a list of at least two names"
    if not all(type(name) is str for name in names):
        return "contains a value that is not text"
    return None if len(set(names)) == len(names) else "contains a name twice"


def _model(model: Any, classes: int) -> str | None:
    if not isinstance(model, dict):
        return "is not a mapping"
    name = model.get("name")
    if type(name) is not str or not re.fullmatch(r"[\w.-]{1,200}", name):
        return "has no valid name of a timm network"
    if type(model.get("num_classes")) is not int or model["num_classes"] != classes:
        return f"does not have {classes} classes, as many as the class names"
    reason = arguments_error(model.get("kwargs"))
    return reason and f"kwargs {reason}"


def _preprocessing(values: Any, complete: bool) -> str | None:
    if not isinstance(values, dict):
        return "is not a mapping"
    if ("size" in values or complete) and not _is_integer(values.get("size"), 1, MAX_SIZE):
        return f"size is not an integer from 1 to {MAX_SIZE}"
    if ("resize" in values or complete) and values.get("resize") not in RESIZE:
        return f"resize is not one of {', '.join(RESIZE)}"
    for key in ("mean", "std"):
        numbers = values.get(key)
        if not isinstance(numbers, list | tuple) or len(numbers) != 3 or not all(map(_is_finite, numbers)):
            return f"{key} is not a list of three numbers"
        if key == "std" and min(numbers) <= 0:
            return "std is not above 0"
    return None


def _versions(versions: Any) -> str | None:
    ok = isinstance(versions, dict) and all(type(part) is str for item in versions.items() for part in item)
    return None if ok else "is not a mapping of text to text"


def _counts(counts: Any) -> str | None:
    ok = counts is None or (isinstance(counts, list | tuple) and all(_is_integer(n, 0, 1 << 53) for n in counts))
    return None if ok else "is not a list of integers"


def _origin(origin: Any) -> str | None:
    return None if type(origin) is str else "is not text"


def _pruning(steps: Any) -> str | None:
    """Check that each step is {"sizes": {module: {attribute: number(s)}}, "shapes": {tensor: numbers}}."""
    if not isinstance(steps, list | tuple):
        return "is not a list"
    for number, step in enumerate(steps):
        sizes, shapes = (step.get("sizes"), step.get("shapes")) if isinstance(step, dict) else (None, None)
        if not isinstance(sizes, dict) or not isinstance(shapes, dict):
            return f"step {number} has no sizes and shapes"
        if not all(
            isinstance(changed, dict) and all(map(_are_channels, changed.values())) for changed in sizes.values()
        ):
            return f"step {number} has a size that is not an integer"
        if not all(isinstance(shape, list | tuple) and _are_channels(shape) for shape in shapes.values()):
            return f"step {number} has a shape that is not a list of integers"
    return None


def _are_channels(value: Any) -> bool:
    return all(
        _is_integer(number, 0, MAX_CHANNELS) for number in (value if isinstance(value, list | tuple) else [value])
    )


def _is_integer(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
