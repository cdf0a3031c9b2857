"""int8 after training: ranges from real photos, and layers given back to float until little enough is lost."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deployment import DeploymentError, optional
from deployment.export import INPUT, save_openvino
from deployment.record import KEY, pack
from deployment.runtimes import OnnxPredictor, OpenVINOPredictor, Predictor
from deployment.signals import kept_signal_stack
from deployment.writing import Verify, placing

Photos = Iterable[np.ndarray]  # batches (B, S, S, 3) uint8 of training photos; gone through several times
Judge = Callable[[Predictor], float]  # macro F1 of a predictor, in [0, 1]

FIRST = (1, 3)  # layers that are given back, in turn, before any search: a mobile net's stem, then its first block too
SLACK = 1e-9  # 0.9 - 0.89 is a little more than 0.01
LAYERS = ("Conv", "Gemm", "MatMul")  # what has weights, and can be given back
BETWEEN = (
    "Add",
    "Mul",
    "GlobalAveragePool",
    "AveragePool",
    "MaxPool",
    "Relu",
    "Clip",
)  # or int8 would end at each of them


def quantize_onnx(
    source: Path,
    path: Path,
    photos: Photos,
    *,
    judge: Judge | None = None,
    max_drop: float = 0.01,
    verify: Verify | None = None,
    rounds: int = 6,
) -> Path:
    """Make an int8 ONNX file (QDQ, int8 weights a channel, uint8 activations) of a float one.

    Args:
        source: Float file that litesort wrote.
        path: Name of the new file.
        photos: Calibration photos, prepared as for the network, in a form that can be gone through again.
        judge: Macro F1 of a predictor; with it, layers are given back to float until no more than `max_drop` is
            lost: the first, the first three, then the most sensitive, twice as many each round.
        max_drop: Macro F1 that may be lost.
        verify: As in `deployment.export.to_onnx`.
        rounds: Rounds of giving back.

    Returns:
        `path`; the names of the layers that were given back are in its metadata, `exported.given_back`.

    Raises:
        DeploymentError: The package is missing, too much is lost after the last round or by the file as written, and
            as in `to_onnx`.
    """
    optional("onnxruntime.quantization", "precision=int8")
    base = OnnxPredictor(source)
    parts, before = _parts(source)
    with tempfile.TemporaryDirectory() as room:
        draft, given_back = Path(room) / "int8.onnx", list[str]()
        _static(source, draft, photos, nodes_to_exclude=before)
        exact = None if judge is None else judge(base)
        if judge is not None and exact is not None:
            wanted, order = exact - max_drop - SLACK, list[str]()
            for number in range(rounds + 1):
                if (reached := judge(OnnxPredictor(draft))) >= wanted:
                    break
                if number == rounds:
                    raise _too_much(path, exact - reached, max_drop, len(given_back))
                if number < len(FIRST):
                    given_back = _first(parts, FIRST[number])
                else:  # takes minutes
                    order = order or _by_sensitivity(source, parts, photos, Path(room))
                    given_back = order[: max(1, min(len(order) - 1, len(order) >> (rounds - 1 - number)))]
                _static(source, draft, photos, nodes_to_exclude=[*before, *_nodes(parts, given_back)])
        proof = _proof(path, OnnxPredictor, judge, exact, max_drop, len(given_back), verify)
        _rewrite(draft, path, {**base.record, "exported": _int8(base.record, given_back)}, proof)
    return path


def quantize_openvino(
    source: Path,
    path: Path,
    photos: Photos,
    *,
    judge: Judge | None = None,
    max_drop: float = 0.01,
    verify: Verify | None = None,
    rounds: int = 6,
) -> Path:
    """Make an int8 OpenVINO model of a float one, by NNCF; all else as in `quantize_onnx`."""
    nncf, openvino = optional("nncf", "precision=int8"), optional("openvino", "precision=int8")
    base = OpenVINOPredictor(source)
    single = [batch[place : place + 1] for batch in photos for place in range(len(batch))]
    data = nncf.Dataset(single)
    common: dict[str, Any] = {"subset_size": len(single), "preset": nncf.QuantizationPreset.MIXED}
    model = openvino.Core().read_model(source)
    layers = dict.fromkeys(_layers(model))
    with _quiet(), kept_signal_stack():
        nncf.set_log_level(logging.ERROR)
        small = nncf.quantize(model, data, **common)
        exact = None if judge is None else judge(base)
        if judge is not None and exact is not None:
            wanted, steps = exact - max_drop - SLACK, iter(FIRST)
            while judge(_compiled(small, base)) < wanted:
                if (count := next(steps, None)) is None:
                    small = _restored(openvino.Core().read_model(source), data, judge, base, max_drop, rounds, common)
                    break
                common["ignored_scope"] = nncf.IgnoredScope(names=_first(layers, count))
                small = nncf.quantize(openvino.Core().read_model(source), data, **common)
    given_back = _in_float(small)
    if len(given_back) == len(_layers(small)):
        raise DeploymentError(f"{path.name}: every layer would go back to float: take fp32 or fp16, or raise max_drop")
    proof = _proof(path, OpenVINOPredictor, judge, exact, max_drop, len(given_back), verify)
    save_openvino(small, path, {**base.record, "exported": _int8(base.record, given_back)}, proof)
    return path


def _proof(
    path: Path,
    kind: Callable[[Path], Predictor],
    judge: Judge | None,
    exact: float | None,
    max_drop: float,
    layers: int,
    verify: Verify | None,
) -> Verify:
    """What the written file has to pass: a search may stop before it has found what it looked for, and says nothing."""

    def proof(draft: Path) -> None:
        if judge is not None and exact is not None and (lost := exact - judge(kind(draft))) > max_drop + SLACK:
            raise _too_much(path, lost, max_drop, layers)
        if verify is not None:
            verify(draft)

    return proof


def _compiled(model: Any, like: OpenVINOPredictor) -> "_Compiled":
    return _Compiled(optional("openvino", "precision=int8").Core().compile_model(model, "CPU"), like)


def _restored(
    model: Any, data: Any, judge: Judge, base: OpenVINOPredictor, max_drop: float, rounds: int, common: dict[str, Any]
) -> Any:
    """NNCF's own search for the layers to give back, which takes minutes."""
    nncf = optional("nncf", "precision=int8")

    # Answers beside the F1: what NNCF ranks layers by, without asking for an F1 of every photo.
    def score(compiled: Any, photos: Any) -> tuple[float, list[list[np.ndarray]]]:
        answers = [[next(iter(compiled(photo).values())).copy()] for photo in photos]
        return judge(_Compiled(compiled, base)), answers

    return nncf.quantize_with_accuracy_control(
        model, data, data, score, max_drop=max_drop, drop_type=nncf.DropType.ABSOLUTE,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(max_num_iterations=rounds),
        **common,
    )  # fmt: skip


QUANTIZERS: dict[str, Callable[..., Path]] = {"onnx": quantize_onnx, "openvino": quantize_openvino}


class _Compiled:
    """A model that NNCF has compiled, as a predictor."""

    def __init__(self, compiled: Any, like: OpenVINOPredictor) -> None:
        self.compiled, self.device, self.details = compiled, like.device, like.details

    def __call__(self, photos: np.ndarray | torch.Tensor) -> torch.Tensor:
        array = photos.cpu().numpy() if isinstance(photos, torch.Tensor) else photos
        return torch.from_numpy(next(iter(self.compiled(array).values())).copy())


def _static(source: Path, target: Path, photos: Photos, **which: list[str]) -> None:
    quantization = optional("onnxruntime.quantization", "precision=int8")
    batches = iter(photos)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    with _quiet():
        # Signed weights and unsigned activations: what CPUs multiply fastest.
        quantization.quantize_static(
            str(source), str(target), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=[*LAYERS, *BETWEEN], **which,
        )  # fmt: skip


def _parts(source: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Layers with weights, each with the nodes between it and the next; and the nodes before all of them.

    What comes before is normalisation, and stays in float. A layer goes back to float with what follows it: to round
    between float layers costs exactness and saves nothing.
    """
    parts: dict[str, list[str]] = {}
    before: list[str] = []
    owners: dict[str, set[str]] = {}
    for node in optional("onnx", "precision=int8").load(str(source)).graph.node:
        mine = {node.name} if node.op_type in LAYERS else set().union(*(owners.get(name, set()) for name in node.input))
        owners |= dict.fromkeys(node.output, mine)
        for layer in mine:
            parts.setdefault(layer, []).append(node.name)
        if not mine:
            before.append(node.name)
    return parts, before


def _first(layers: Mapping[str, Any], count: int) -> list[str]:
    """The first layers, and never all of them."""
    return list(layers)[: min(count, len(layers) - 1)]


def _nodes(parts: Mapping[str, list[str]], layers: Sequence[str]) -> list[str]:
    """The nodes of some layers and of what follows them; one that follows several comes once."""
    return list(dict.fromkeys(node for layer in layers for node in parts[layer]))


def _by_sensitivity(source: Path, parts: Mapping[str, list[str]], photos: Photos, room: Path) -> list[str]:
    """Layers by how far the answers move when that layer alone is int8, the farthest first."""
    some = next(iter(photos))
    exact, moved = OnnxPredictor(source)(some), {}
    for layer, nodes in parts.items():
        _static(source, room / "one.onnx", [some], nodes_to_quantize=nodes)
        moved[layer] = float((OnnxPredictor(room / "one.onnx")(some) - exact).abs().mean())
    return sorted(parts, key=lambda layer: -moved[layer])


def _rewrite(draft: Path, path: Path, record: dict[str, Any], verify: Verify | None) -> None:
    onnx = optional("onnx", "precision=int8")
    model = onnx.load(str(draft))
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: pack(record)})
    with placing(path, verify) as final:
        final.write_bytes(model.SerializeToString())


def _int8(record: dict[str, Any], given_back: Sequence[str]) -> dict[str, Any]:
    return {**record["exported"], "precision": "int8", "given_back": list(given_back)}


def _in_float(model: Any) -> list[str]:
    """Names of the layers of an OpenVINO model whose input is not quantised."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    return [name for name in _layers(model) if nodes[name].input_value(0).get_node().get_type_name() != "FakeQuantize"]


def _layers(model: Any) -> list[str]:
    """Names of the layers with weights of an OpenVINO model, from photo to answer."""
    kinds = ("Convolution", "GroupConvolution", "MatMul")
    return [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in kinds]


def _too_much(path: Path, lost: float, max_drop: float, layers: int) -> DeploymentError:
    return DeploymentError(
        f"{path.name}: int8 loses {lost:.4f} macro F1 with {layers} layers given back, and max_drop={max_drop:g}: "
        "nothing was written: take fp32 or fp16, or raise max_drop"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the tools say of themselves off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
