"""Self-describing checkpoints: the model card has all metadata to rebuild, evaluate and export the network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.backbones.backbone import Backbone, build_timm
from lightning_modules.backbones.pretrained import read_torch
from lightning_modules.pruning.replay import replay
from litesort.errors import ModelError, first_line
from litesort.model_card import card_error
from litesort.plain_data import check_size
from litesort.system import versions

MODEL_CARD = "litesort"  # key of the model card in a checkpoint
FORMAT = 1


def make_model_card(
    net: Backbone,
    classes: Sequence[str],
    *,
    class_counts: Sequence[int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Build the model card of a network, as plain data.

    Args:
        net: Backbone.
        classes: Class names, in the order of the logits.
        class_counts: Training images per class.
        preprocessing: {"size", "resize"} of the data. The function adds "mean" and "std".
        config: Resolved config of the run, as plain data.
        **extra: Further plain data.

    Returns:
        {"format", "model": {"name", "num_classes", "kwargs"}, "origin", "classes", "class_counts", "preprocessing",
        "config", "pruning", "versions", **extra}.

    Raises:
        ModelError: A value is not plain data, which could not be loaded safely.
    """
    norm = {key: [round(v, 6) for v in getattr(net, key).flatten().tolist()] for key in ("mean", "std")}
    card: dict[str, Any] = {
        "format": FORMAT,
        "model": {"name": net.name, "num_classes": net.num_classes, "kwargs": dict(net.kwargs)},
        "origin": net.origin,
        "classes": list(classes),
        "class_counts": None if class_counts is None else [int(n) for n in class_counts],
        "preprocessing": {**(preprocessing or {}), **norm},
        "config": dict(config or {}),
        "pruning": list(net.pruning),
        "versions": versions(),
        **extra,
    }
    check_plain(card, MODEL_CARD)
    if reason := card_error(card):  # fails before the training, not when the checkpoint is read
        raise ModelError(f"a checkpoint of this run could not be read again: {reason}")
    return card


def read_checkpoint(path: str | Path | None, key: str = "ckpt") -> dict[str, Any]:
    """Read a checkpoint of litesort on the CPU. No code of the file is executed.

    Args:
        path: Path of the file.
        key: Setting that names the file, for error messages.

    Returns:
        The checkpoint as Lightning wrote it ("state_dict", "epoch", ...). The key "litesort" is its model card,
        converted to the current format.

    Raises:
        ModelError: The file is missing, broken, unsafe, not written by litesort, or has a newer format.
    """
    if path is None:
        raise ModelError(f"{key} is not given: give the checkpoint of a run, e.g. {key}=runs/.../best.ckpt")
    checkpoint = read_torch(path, key)
    card = checkpoint.get(MODEL_CARD)
    if not isinstance(card, Mapping) or "state_dict" not in checkpoint or "format" not in card:
        kind = "a Lightning checkpoint" if "pytorch-lightning_version" in checkpoint else "a file of tensors"
        raise ModelError(
            f"{key}={path} is {kind}, not litesort's: give a run's best.ckpt (plain weights: model.weights=FILE)"
        )
    version = card["format"]
    if type(version) is int and version > FORMAT:
        raise ModelError(
            f"{key}={path} has format {version} and this litesort reads up to {FORMAT}: pip install -U litesort"
        )
    reason = _too_large(checkpoint) or card_error(card) or (type(version) is not int and "its format is not an integer")
    if reason:
        raise ModelError(f"{key}={path} is refused: {reason}: give a checkpoint that litesort wrote")
    checkpoint[MODEL_CARD] = upgrade_card(dict(card))
    return checkpoint


def _too_large(checkpoint: Mapping[str, Any]) -> str | None:
    """Return why a checkpoint is too large to traverse, or None. Lists may be shared, or contain themselves."""
    try:
        check_size(checkpoint)
    except ValueError as error:
        return str(error)
    return None


def upgrade_card(card: dict[str, Any]) -> dict[str, Any]:
    """Convert an older model card to the current format.

    Args:
        card: Model card of any supported version. It is changed in place.

    Returns:
        The model card.
    """
    if config := card.get("config"):
        added_keys = {
            "teacher": None, "ckpt_init": None, "prune": {"_target_": "pytorch_lightning.Callback"},
            "export": {"_target_": "pathlib.Path", "_partial_": True},
        }  # fmt: skip
        card["config"] = added_keys | dict(config)
    return card


def build_net(checkpoint: Mapping[str, Any], name: str = "ckpt") -> Backbone:
    """Rebuild the network of a checkpoint, including its pruning. Nothing is downloaded.

    Args:
        checkpoint: Result of `read_checkpoint`.
        name: Setting and path of the checkpoint, for error messages.

    Returns:
        The backbone in evaluation mode.

    Raises:
        ModelError: The pruning or a tensor does not fit the network that timm builds.
    """
    card = checkpoint[MODEL_CARD]
    model = card["model"]
    net = Backbone(
        replay(build_timm(model["name"], model["num_classes"], model["kwargs"]), card["pruning"], name),
        name=model["name"],
        num_classes=model["num_classes"],
        mean=card["preprocessing"]["mean"],
        std=card["preprocessing"]["std"],
        origin=card["origin"],
        kwargs=model["kwargs"],
        pruning=card["pruning"],
    )
    prefix = "net."
    state = {key.removeprefix(prefix): v for key, v in checkpoint["state_dict"].items() if str(key).startswith(prefix)}
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        timm_version = card["versions"].get("timm", "unknown")
        raise ModelError(
            f"{name}: its tensors do not fit {model['name']} (written with timm {timm_version}): {_detail(error)}"
        ) from error
    return net.eval()


def load_for_training(path: str | Path, classes: Sequence[str], key: str = "ckpt_init") -> Backbone:
    """Rebuild the network of a checkpoint for further training.

    Args:
        path: Path of the checkpoint.
        classes: Class names of the data. The logits are permuted to their order.
        key: Setting that names the checkpoint, for error messages.

    Returns:
        The backbone in training mode.

    Raises:
        ModelError: As in `read_checkpoint`, or the network was trained on other classes.
    """
    checkpoint = read_checkpoint(path, key)
    trained_on = checkpoint[MODEL_CARD]["classes"]
    if sorted(trained_on) != sorted(classes):
        raise ModelError(
            f"{key}={path} was trained on the classes {', '.join(trained_on)}, the data has {', '.join(classes)}: give "
            "its training data, or use model.weights=FILE instead of ckpt_init to start with a new classifier"
        )
    net = build_net(checkpoint, f"{key}={path}")
    net.head_classes = trained_on
    net.match_head(classes)
    return net.train()


def build_untrained(net: Backbone, pruning: Sequence[Mapping[str, Any]]) -> Backbone:
    """Build a randomly initialised network with the architecture of `net` and other pruning steps.

    Args:
        net: Backbone.
        pruning: Pruning steps to replay.

    Returns:
        The backbone in evaluation mode.
    """
    fresh = replay(build_timm(net.name, net.num_classes, net.kwargs), pruning)
    return Backbone(fresh, name=net.name, num_classes=net.num_classes, kwargs=net.kwargs, pruning=pruning).eval()


def load_net(path: str | Path) -> tuple[Backbone, dict[str, Any]]:
    """Load the network of a checkpoint and its model card. Nothing is downloaded.

    Args:
        path: Path of the checkpoint.

    Returns:
        The backbone in evaluation mode, and the model card as in `make_model_card`.

    Raises:
        ModelError: As in `read_checkpoint` and `build_net`.
    """
    checkpoint = read_checkpoint(path)
    return build_net(checkpoint, f"ckpt={path}"), checkpoint[MODEL_CARD]


def check_plain(value: Any, where: str) -> None:
    """Check that a value is None, bool, int, float, str, or lists, tuples and dicts of these.

    Args:
        value: Value to check.
        where: Name of the value, for the error message.

    Raises:
        ModelError: The value has another type.
    """
    if type(value) is dict:
        for key, item in value.items():
            if type(key) not in (str, int):
                raise ModelError(f"{where} has the key {key!r} of type {type(key).__name__}: use text")
            check_plain(item, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            check_plain(item, f"{where}[{i}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise ModelError(
            f"{where} is a {type(value).__name__}: give plain data (OmegaConf.to_container, float(), str())"
        )


def _detail(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else first_line(error))[:200]
