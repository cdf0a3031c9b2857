"""Self-describing checkpoints: the record says all that rebuilding, judging and exporting need."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.backbones.backbone import Backbone, build_timm, first_line
from lightning_modules.backbones.pretrained import read_torch
from lightning_modules.pruning.replay import replay
from litesort.errors import ModelError
from litesort.model_card import fault
from litesort.plain_data import check_size
from litesort.system import versions

RECORD = "litesort"  # the record's key in a checkpoint
FORMAT = 1


def make_record(
    net: Backbone,
    classes: Sequence[str],
    *,
    class_counts: Sequence[int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Describe a network in plain data.

    classes: names, in the order of the logits; class_counts: training photos a class; preprocessing: {"size",
    "resize"} of the data, to which mean and std are added; config: the resolved, plain config of the run; extra:
    further plain data.

    Returns {"format", "model": {"name", "num_classes", "kwargs"}, "origin", "classes", "class_counts",
    "preprocessing", "config", "pruning", "versions", **extra}. ModelError if a value is not plain data (it could
    not be loaded safely).
    """
    norm = {key: [round(v, 6) for v in getattr(net, key).flatten().tolist()] for key in ("mean", "std")}
    record: dict[str, Any] = {
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
    check_plain(record, RECORD)
    if reason := fault(record):  # what no reader would take: said now, not after the training
        raise ModelError(f"a checkpoint of this run could not be read again: {reason}")
    return record


def read_checkpoint(path: str | Path | None) -> dict[str, Any]:
    """Read a checkpoint that litesort wrote, on the CPU, executing no code from it.

    Returns the checkpoint as Lightning wrote it ("state_dict", "epoch", ...) with its record, patched to today's
    format, under "litesort". ModelError for a file that is missing, broken, unsafe, not litesort's, or of a newer
    format.
    """
    if path is None:
        raise ModelError("ckpt is not given: name the checkpoint of a run, e.g. ckpt=runs/.../best.ckpt")
    checkpoint = read_torch(path, "ckpt")
    record = checkpoint.get(RECORD)
    if not isinstance(record, Mapping) or "state_dict" not in checkpoint or "format" not in record:
        kind = "a Lightning checkpoint" if "pytorch-lightning_version" in checkpoint else "a file of tensors"
        raise ModelError(
            f"ckpt={path} is {kind}, not litesort's: give a run's best.ckpt (plain weights: model.weights=FILE)"
        )
    version = record["format"]
    if type(version) is int and version > FORMAT:
        raise ModelError(
            f"ckpt={path} has format {version} and this litesort reads up to {FORMAT}: pip install -U litesort"
        )
    reason = _too_large(checkpoint) or fault(record) or (type(version) is not int and "its format is no whole number")
    if reason:
        raise ModelError(f"ckpt={path} is refused: {reason}: give a checkpoint that litesort wrote")
    checkpoint[RECORD] = patch_forward(dict(record))
    return checkpoint


def _too_large(checkpoint: Mapping[str, Any]) -> str | None:
    """Whether walking through a checkpoint would take for ever: lists in it may share lists, or hold themselves."""
    try:
        check_size(checkpoint)
    except ValueError as error:
        return str(error)
    return None


def patch_forward(record: dict[str, Any]) -> dict[str, Any]:
    """Bring an older record to today's: the one place that knows what they lack."""
    if config := record.get("config"):
        later = {
            "teacher": None, "ckpt_init": None, "prune": {"_target_": "pytorch_lightning.Callback"},
            "export": {"_target_": "pathlib.Path", "_partial_": True},
        }  # fmt: skip
        record["config"] = later | dict(config)
    return record


def build_net(checkpoint: Mapping[str, Any]) -> Backbone:
    """Rebuild the network of a checkpoint that `read_checkpoint` returned, in eval mode.

    Every tensor must fit, after the pruning that it went through; nothing is downloaded. ModelError if this timm builds
    another network under the name.
    """
    record = checkpoint[RECORD]
    model = record["model"]
    net = Backbone(
        replay(build_timm(model["name"], model["num_classes"], model["kwargs"]), record["pruning"]),
        name=model["name"],
        num_classes=model["num_classes"],
        mean=record["preprocessing"]["mean"],
        std=record["preprocessing"]["std"],
        origin=record["origin"],
        kwargs=model["kwargs"],
        pruning=record["pruning"],
    )
    prefix = "net."
    state = {key.removeprefix(prefix): v for key, v in checkpoint["state_dict"].items() if str(key).startswith(prefix)}
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        made_by = record["versions"].get("timm", "unknown")
        raise ModelError(
            f"ckpt: its tensors do not fit {model['name']} (written with timm {made_by}): {_detail(error)}"
        ) from error
    return net.eval()


def load_for_training(path: str | Path, classes: Sequence[str]) -> Backbone:
    """Rebuild the network of a checkpoint to train it further, in training mode, its logits in the order of `classes`.

    ModelError if it was trained on other classes.
    """
    checkpoint = read_checkpoint(path)
    known = checkpoint[RECORD]["classes"]
    if sorted(known) != sorted(classes):
        raise ModelError(
            f"{path} knows the classes {', '.join(known)} and the data has {', '.join(classes)}: give the data that it "
            "was trained on, or model.weights=FILE instead of ckpt_init, which starts a new head"
        )
    net = build_net(checkpoint)
    order = [known.index(name) for name in classes]
    for parameter in net.head_parameters():
        parameter.data = parameter.data[order]
    return net.train()


def build_from_card(net: Backbone, pruning: Sequence[Mapping[str, Any]]) -> Backbone:
    """Build an untrained network of the same kind with another pruning history: as large, as fast."""
    fresh = replay(build_timm(net.name, net.num_classes, net.kwargs), pruning)
    return Backbone(fresh, name=net.name, num_classes=net.num_classes, kwargs=net.kwargs, pruning=pruning).eval()


def load_net(path: str | Path) -> tuple[Backbone, dict[str, Any]]:
    """The network of a checkpoint, in eval mode, and its record; errors as in `read_checkpoint` and `build_net`."""
    checkpoint = read_checkpoint(path)
    return build_net(checkpoint), checkpoint[RECORD]


def check_plain(value: Any, where: str) -> None:
    """Raise ModelError, naming the place, unless value is None, bool, int, float, str, or lists and dicts of those."""
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
            f"{where} is a {type(value).__name__}: checkpoints take plain data (OmegaConf.to_container, float(), str())"
        )


def _detail(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else first_line(error))[:200]
