import math

import numpy as np
import pytest
import torch
from torch import nn

from deployment.formats import FORMATS
from deployment.latency import LatencyBenchmark, Reference, Settings
from deployment.latency.benchmark import EAGER, build_clock
from deployment.latency.candidates import (
    Candidate,
    Pipeline,
    end_to_end_clock,
    model_clock,
    torch_candidate,
    torch_pipeline,
)
from lightning_modules.backbones.backbone import create_backbone
from litesort.errors import DeploymentError

QUICK = Settings(seconds=0, min_rounds=5, max_rounds=5)


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_model_clock_returns_a_record_per_batch_size_with_ratios():
    nets = {"model": torch_candidate(small_net(), 16), "resnet18d": torch_candidate(small_net(), 24)}
    shares = []
    records = model_clock(nets, reference="resnet18d", batches=(1, 4), settings=QUICK, progress=shares.append)
    assert [(record["clock"], record["batch"], record["rounds"]) for record in records] == [
        ("model", 1, 5),
        ("model", 4, 5),
    ]
    entry = records[1]["entries"]["model"]
    assert entry["ratio"] > 0
    assert entry["ms_per_image"] == pytest.approx(entry["mean_ms"] / 4)
    assert {key: entry[key] for key in ("runtime", "precision", "size", "device")} == {
        "runtime": "torch eager", "precision": "float32", "size": 16, "device": "cpu",
    }  # fmt: skip
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_model_clock_gives_each_candidate_its_own_inputs():
    seen = []
    other = Candidate(seen.append, lambda batch: np.zeros((batch, 8, 8, 3), np.uint8), details={"runtime": "numpy"})
    (record,) = model_clock({"model": other}, batches=(3,), settings=QUICK)
    assert {images.shape for images in seen} == {(3, 8, 8, 3)}
    assert record["entries"]["model"]["runtime"] == "numpy"
    assert record["entries"]["model"]["ratio"] is None


def test_eager_candidate_maps_images_in_zero_to_one_to_probabilities():
    candidate = torch_candidate(small_net().eval(), 16)
    images = candidate.inputs(2)
    assert images.shape == (2, 3, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1
    assert candidate.predict(images).sum(1).tolist() == pytest.approx([1, 1])


def test_inputs_have_the_memory_format_of_the_network():
    net = small_net().to(memory_format=torch.channels_last)
    candidate = torch_candidate(net, 16)
    assert candidate.inputs(2).is_contiguous(memory_format=torch.channels_last)
    assert candidate.details["memory_format"] == "channels_last"
    assert torch_candidate(small_net(), 16).details["memory_format"] == "contiguous_format"


def test_measurement_does_not_change_modes_weights_and_random_state():
    net = small_net().train()
    net[1].eval()  # a frozen norm in a network in training mode
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    model_clock({"model": torch_candidate(net, 16)}, batches=(1,), settings=QUICK)
    assert [module.training for module in net.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    return paths


def test_end_to_end_clock_cycles_through_the_same_files_for_all_pipelines(files):
    read, batches = {"a": [], "b": []}, []

    def pipeline(name):
        def prepare(file):
            read[name].append(file)
            return np.full((4, 4, 3), file.read_bytes()[0], np.uint8)

        def predict(images):
            batches.append(images)
            return np.eye(3)[images[:, 0, 0, 0]]

        return Pipeline(prepare, predict)

    settings = Settings(seconds=0, min_rounds=3, max_rounds=3)
    (record,) = end_to_end_clock({name: pipeline(name) for name in read}, files, batches=(2,), settings=settings)
    assert set(read["a"]) == set(read["b"]) == set(files)
    assert {(images.shape, images.dtype.name) for images in batches} == {((2, 4, 4, 3), "uint8")}
    assert (record["clock"], record["files"], record["rounds"]) == ("end_to_end", 3, 3)
    counts = {entry["calls"] for entry in record["entries"].values()}
    assert len(counts) == 1  # equal numbers of calls, so that all pipelines read the same files
    assert counts.pop() > 3


def test_eager_pipeline_computes_the_probabilities_of_the_network(files):
    net = small_net().eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = net(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).softmax(1)
        probabilities = torch_pipeline(net, lambda file: images[0]).predict(images)
    torch.testing.assert_close(probabilities, expected)
    pipelines = {"model": torch_pipeline(net, lambda file: images[0])}
    (record,) = end_to_end_clock(pipelines, files, batches=(1,), settings=QUICK)
    assert record["entries"]["model"]["median_ms"] > 0


def test_invalid_batch_files_and_reference_are_errors(files):
    with pytest.raises(DeploymentError, match="batch=0"):
        model_clock({"model": torch_candidate(small_net(), 16)}, batches=(0,))
    with pytest.raises(DeploymentError, match="no images"):
        end_to_end_clock({"model": torch_pipeline(small_net(), np.load)}, [])
    with pytest.raises(DeploymentError, match="reference=x"):
        model_clock({"model": torch_candidate(small_net(), 16)}, reference="x")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    net = create_backbone("resnet10t", 6, pretrained=False).eval()
    return Reference("resnet10t", 32, lambda: net, tmp_path_factory.mktemp("references"))


@pytest.fixture(scope="module")
def exported(reference):
    """An ONNX file of the reference itself."""
    reference.exported("onnx", 1, {})
    (file,) = reference.folder.rglob("*.onnx")
    return FORMATS["onnx"].load(file)


def test_file_has_a_ratio_in_its_own_runtime_too(reference, exported):
    net = create_backbone("lcnet_035", 6, pretrained=False).eval()
    benchmark = LatencyBenchmark(batches=[4, 1], end_to_end=False, settings=Settings(seconds=0.2))
    report = benchmark.measure({"file": (exported, 32), "net": (net, 32)}, reference, None, [])
    file, eager = report.row("file"), report.row("net")
    # The file has the network of the reference, so the ratio in the same runtime is about 1.
    assert file["ratio_same_runtime"] == pytest.approx(1, abs=0.5)
    assert file["ratio_same_runtime"] != file["ratio"]
    assert eager["ratio_same_runtime"] == eager["ratio"]
    assert (file["runtime"], eager["runtime"]) == ("onnx", "eager")
    assert (file["reference"], file["threads"]) == ("resnet10t 32 px", 1)
    assert [record["batch"] for record in report.records] == [4, 1]
    assert file["latency_ms"] == report.records[1]["entries"]["file"]["median_ms"]  # of batch 1
    assert file["latency_ms_low"] <= file["latency_ms"] <= file["latency_ms_high"]
    written = list(reference.folder.rglob("*.onnx"))
    benchmark.measure({"file": (exported, 32)}, reference, None, [])
    assert list(reference.folder.rglob("*.onnx")) == written  # the stored file is used again


def test_reference_that_a_format_cannot_express_has_no_ratio_in_that_runtime(reference, exported, monkeypatch, caplog):
    def refuse(*_, **__):
        raise DeploymentError("format=onnx cannot express it")

    monkeypatch.setattr(Reference, "exported", refuse)
    report = LatencyBenchmark(end_to_end=False, settings=QUICK).measure({"model": (exported, 32)}, reference, None, [])
    assert (report.row()["ratio"] > 0, report.row()["ratio_same_runtime"]) == (True, None)
    assert caplog.messages == ["ratio_same_runtime is left out for onnx: format=onnx cannot express it"]


def test_file_on_another_device_than_the_reference_is_refused(reference, exported, monkeypatch):
    monkeypatch.setitem(exported.details, "runs_on", "cuda")
    expected = r"latency.device=cpu is not the device of the file, which runs on cuda: .* give latency.device=cuda"
    with pytest.raises(DeploymentError, match=expected):
        LatencyBenchmark(settings=QUICK).measure({"model": (exported, 32)}, reference, None, [])


@pytest.mark.parametrize("runtime", [*FORMATS, EAGER])
def test_build_clock_times_two_networks_in_each_runtime(runtime):
    for package in FORMATS[runtime].packages if runtime in FORMATS else ():
        pytest.importorskip(package, reason=f"the packages of {runtime} are not installed")
    small, large = (create_backbone(name, 3, pretrained=False).eval() for name in ("lcnet_035", "resnet10t"))
    times = build_clock(runtime)(small, large, 64)
    assert all(math.isfinite(value) and value > 0 for value in times)


def test_build_clock_refuses_an_unknown_runtime():
    with pytest.raises(
        DeploymentError, match=r"prune\.runtime=tflite is unknown: give one of ncnn, onnx, openvino, eager"
    ):
        build_clock("tflite")
