"""Accuracy, stability and cost of the latency benchmark.

    python benchmarks/clock.py accuracy     # compared with a tight loop that calls only the runtime
    python benchmarks/clock.py stability    # five processes, on an idle machine and beside a busy process
    python benchmarks/clock.py cost         # seconds of the first and of a later job

Networks are untrained, which does not change their time. Settings are those of conf/latency/default.yaml.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import write_images
from rich.console import Console
from rich.table import Table

from datamodules.cache import default_cache_dir
from datamodules.images import load
from deployment.formats import FORMATS
from deployment.latency import LatencyBenchmark, Reference, Settings
from deployment.latency.candidates import model_clock, predictor_candidate
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import make_model_card
from litesort.system import describe_machine

CLASSES = [f"class{number}" for number in range(6)]
NETWORK, SIZE = "tf_efficientnet_lite0", 96
REFERENCE = Reference(
    "resnet18d",
    224,
    functools.cache(functools.partial(create_backbone, "resnet18d", 6, pretrained=False)),
    default_cache_dir() / "references",
)
FILES = [
    *((NETWORK, kind, precision) for kind in ("onnx", "openvino") for precision in ("fp32", "int8")),
    ("lcnet_050", "onnx", "fp32"),
    ("lcnet_050", "openvino", "int8"),
]
BUSY = "while True: pass"


def export(folder: Path, kind: str, precision: str = "fp32", name: str = NETWORK) -> Path:
    """Export a network; returns the file."""
    torch.manual_seed(0)
    net = create_backbone(name, len(CLASSES), pretrained=False).eval()
    one = FORMATS[kind]
    card = make_model_card(net, CLASSES, preprocessing={"size": SIZE, "resize": "pad"})
    path = one.write(net, folder / f"{name}-fp32{one.suffix}", card)
    if precision == "fp32":
        return path
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, SIZE, SIZE, 3), dtype=np.uint8)
    return one.quantize(path, folder / f"{name}-int8{one.suffix}", list(pixels))


def onnx_call(path: Path) -> Callable[[np.ndarray], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"images": pixels})


def openvino_call(path: Path) -> Callable[[np.ndarray], Any]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, SIZE, SIZE, 3])
    hints = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", hints | {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    return lambda pixels: next(iter(request.infer([pixels], share_inputs=True).values()))


def tight_loop(call: Callable[[np.ndarray], Any], seconds: float) -> float:
    """Median ms of a call in a loop that does nothing else. The first third of the calls is left out."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter_ns()
        call(pixels)
        times.append((time.perf_counter_ns() - before) / 1e6)
    return float(np.median(times[len(times) // 3 :]))


def reader(size: int) -> Callable[[Path], np.ndarray]:
    return functools.partial(load, size=size, policy="pad")


def measure_file(path: Path, **settings: Any) -> dict[str, Any]:
    """Results of the latency benchmark for a file, on the model clock."""
    benchmark = LatencyBenchmark(end_to_end=False, settings=Settings(**settings))
    (one,) = (one for one in FORMATS.values() if path.name.endswith(one.suffix))
    return benchmark.measure({"model": (one.load(path), SIZE)}, REFERENCE, reader, []).row()


def accuracy(rounds: int) -> Table:
    """A loop that calls only the runtime runs between two rounds of the benchmark, so that other load affects both."""
    table = Table(title=f"ms at {SIZE} px, one thread, medians of {rounds} rounds")
    for column in ("file", "tight loop", "its quartiles", "reported", "difference"):
        table.add_column(column, justify="left" if column == "file" else "right")
    eager = REFERENCE.eager("cpu")
    pixels = eager.inputs(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, kind, precision in FILES:
            path, loops = export(Path(folder), kind, precision, name), []
            call = {"onnx": onnx_call, "openvino": openvino_call}[kind](path)

            def between(share: float, call: Any = call, loops: list[float] = loops) -> None:
                loops.append(tight_loop(call, seconds=0.15))
                eager.predict(pixels)  # fills the CPU caches with another network, as in the benchmark

            candidates = {
                "model": predictor_candidate(FORMATS[kind].load(path), SIZE),
                "eager": eager,
                "exported": REFERENCE.exported(kind, 1, {}),
            }
            settings = Settings(seconds=1e3, tolerance=0, min_rounds=rounds, max_rounds=rounds)
            (record,) = model_clock(candidates, reference="eager", settings=settings, progress=between)
            loop, reported = float(np.median(loops)), record["entries"]["model"]["median_ms"]
            low, high = np.quantile(loops, [0.25, 0.75])
            cells = (f"{low:.3f} to {high:.3f}", f"{reported:.3f}", f"{100 * (reported / loop - 1):+.1f} %")
            table.add_row(f"{name} {kind} {precision}", f"{loop:.3f}", *cells)
    return table


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` processes that use one core each."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def stability(processes: int) -> Table:
    table = Table(title=f"{NETWORK}, {SIZE} px, ONNX fp32: {processes} processes; range in % of the mean")
    names = ("ratio", "same runtime", "ms", "ms of a tight loop")
    for column in ("machine", *(part for name in names for part in (name, "range")), "unsteady"):
        table.add_column(column, justify="left" if column == "machine" else "right")
    with tempfile.TemporaryDirectory() as folder:
        path = export(Path(folder), "onnx")
        measure_file(path)  # warm-up: exports the reference, reads the files
        for name, count in (("idle", 0), ("beside one busy process", 1)):
            with busy(count):
                command = [sys.executable, __file__, "once", "--file", str(path)]
                rows = [
                    json.loads(
                        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
                    )
                    for _ in range(processes)
                ]
            cells = []
            for key in ("ratio", "ratio_same_runtime", "latency_ms", "loop_ms"):
                values = np.array([row[key] for row in rows])
                cells += [f"{values.mean():.4f}", f"{100 * np.ptp(values) / values.mean():.1f} %"]
            table.add_row(name, *cells, str(sum(row["unsteady"] for row in rows)))
    return table


def cost() -> Table:
    table = Table(title="seconds of the latency benchmark of a job, both clocks, one thread")
    for column in ("artifact", "first job", "later jobs"):
        table.add_column(column, justify="left" if column == "artifact" else "right")
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(write_images(Path(folder) / "images", 64).rglob("*.jpg"))
        onnx = FORMATS["onnx"].load(export(Path(folder), "onnx"))
        net = create_backbone(NETWORK, len(CLASSES), pretrained=False).eval()
        for name, model in {f"{NETWORK} {SIZE} px, checkpoint": net, "... ONNX file": onnx}.items():
            seconds = []
            for _ in range(4):
                start = time.perf_counter()
                LatencyBenchmark().measure({"model": (model, SIZE)}, REFERENCE, reader, files)
                seconds.append(time.perf_counter() - start)
            table.add_row(name, f"{seconds[0]:.1f}", f"{min(seconds[1:]):.1f} to {max(seconds[1:]):.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["accuracy", "stability", "cost", "once"])
    parser.add_argument("--rounds", type=int, default=30, help="rounds of `accuracy`")
    parser.add_argument("--processes", type=int, default=5, help="processes of `stability`")
    parser.add_argument("--file", type=Path, help="for `once`: time this ONNX file and print a line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "once":
        row = measure_file(options.file)
        print(json.dumps(row | {"loop_ms": tight_loop(onnx_call(options.file), seconds=1.0)}))
        return
    print(describe_machine())
    tables = {
        "accuracy": lambda: accuracy(options.rounds),
        "stability": lambda: stability(options.processes),
        "cost": cost,
    }
    Console(width=120).print(tables[options.part]())


if __name__ == "__main__":
    main()
