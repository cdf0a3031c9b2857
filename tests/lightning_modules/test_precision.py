import logging
import platform
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_modules import precision
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.precision import StepTimes
from litesort.errors import ModelError


@pytest.fixture(autouse=True)
def _reset_logged_messages(monkeypatch):
    monkeypatch.setattr(precision, "_logged", set())


def _machine(monkeypatch, *, cuda: bool, gpu_bf16: bool = True, cpu_bf16: bool = False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_bf16)
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: cpu_bf16)


@pytest.mark.parametrize(
    ("requested", "accelerator", "machine", "expected"),
    [
        ("16-mixed", "auto", {"cuda": True}, "16-mixed"),
        (16, "gpu", {"cuda": True}, "16-mixed"),
        ("16-mixed", "auto", {"cuda": False}, "32-true"),
        ("16-mixed", "cpu", {"cuda": True}, "32-true"),
        ("16-mixed", "mps", {"cuda": False}, "32-true"),
        ("16-mixed", "auto", {"cuda": False, "cpu_bf16": True}, "32-true"),
        ("bf16-mixed", "auto", {"cuda": False, "cpu_bf16": True}, "bf16-mixed"),
        ("bf16-mixed", "cpu", {"cuda": False, "cpu_bf16": False}, "32-true"),
        ("bf16-mixed", "auto", {"cuda": True, "gpu_bf16": False}, "16-mixed"),
        ("16-true", "cpu", {"cuda": False}, "32-true"),
        (32, "auto", {"cuda": True}, "32-true"),
        ("auto", "auto", {"cuda": True}, "16-mixed"),
        ("auto", "auto", {"cuda": False}, "32-true"),
        ("auto", "mps", {"cuda": False, "cpu_bf16": True}, "32-true"),
    ],
)
def test_supported_precision_by_device(monkeypatch, requested, accelerator, machine, expected):
    _machine(monkeypatch, **machine)
    assert precision.supported_precision(requested, accelerator) == expected


def test_cpu_has_bf16_matches_cpuinfo():
    info = Path("/proc/cpuinfo")
    if not info.is_file() or platform.machine() != "x86_64":
        pytest.skip("/proc/cpuinfo of an x86 CPU is needed for the comparison")
    flags = set(info.read_text().split())
    assert precision._cpu_has_bf16() == bool(flags & {"avx512_bf16", "amx_bf16"})


def test_supported_precision_logs_reason(monkeypatch, caplog):
    _machine(monkeypatch, cuda=False)
    with caplog.at_level(logging.WARNING):
        precision.supported_precision("bf16-mixed", "cpu")
    assert "this CPU has no bf16 units, training in 32-true instead" in caplog.text


@pytest.mark.parametrize("requested", [64, "64-true"])
def test_supported_precision_rejects_double_precision(requested):
    with pytest.raises(ModelError, match=rf"^trainer\.precision={requested} is not supported.*give 32-true$"):
        precision.supported_precision(requested, "cpu")


def test_supported_precision_logs_change_once(monkeypatch, caplog):
    _machine(monkeypatch, cuda=False)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            precision.supported_precision("16-mixed", "cpu")
            precision.supported_precision("32-true", "cpu")
    assert [record.getMessage() for record in caplog.records] == [
        "trainer.precision=16-mixed: CUDA is not available, training in 32-true instead"
    ]


def test_supported_precision_rejects_unknown_name():
    with pytest.raises(ModelError, match=r"trainer\.precision=8-bit is unknown"):
        precision.supported_precision("8-bit", "cpu")


SHAPE = (8, 3, 16, 16)
TIMES = {"32-true": 30.0, "bf16-mixed": 20.0}


class RecordedStep:
    """Training step that records autocast (on or off) and number of images of each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, net, images):
        self.calls.append((torch.is_autocast_enabled("cpu"), len(images)))
        torch.rand(1)  # like dropout
        net.weight.data.add_(1)


def _choose(requested="auto", accelerator="cpu", steps=1000, **options):
    net, step = nn.Conv2d(3, 4, 3), RecordedStep()
    return precision.choose_precision(requested, accelerator, net, step, SHAPE, steps=steps, **options)


@pytest.mark.parametrize("requested", ["auto", "16-mixed"])
@pytest.mark.parametrize(("bf16_ms", "expected"), [(20.0, "bf16-mixed"), (29.0, "32-true"), (50.0, "32-true")])
def test_choose_precision_on_a_cpu_with_bf16_units_is_the_faster(monkeypatch, caplog, requested, bf16_ms, expected):
    _machine(monkeypatch, cuda=False, cpu_bf16=True)
    monkeypatch.setattr(precision, "measure_steps", lambda *_: StepTimes(TIMES | {"bf16-mixed": bf16_ms}, True))
    with caplog.at_level(logging.INFO):
        chosen = _choose(requested)
    assert chosen.name == expected
    assert chosen.step_ms["bf16-mixed"] == bf16_ms
    assert f"30 ms in 32-true and {bf16_ms:.0f} ms in bf16-mixed" in caplog.text


@pytest.mark.parametrize(
    ("machine", "options", "expected"),
    [
        ({"cuda": True}, {"accelerator": "auto"}, "16-mixed"),
        ({"cuda": False}, {}, "32-true"),
        ({"cuda": False, "cpu_bf16": True}, {"steps": 20}, "32-true"),
        ({"cuda": False, "cpu_bf16": True}, {"processes": True}, "32-true"),
        ({"cuda": False, "cpu_bf16": True}, {"accelerator": "mps"}, "32-true"),
        ({"cuda": False, "cpu_bf16": True}, {"requested": "bf16-mixed"}, "bf16-mixed"),
        ({"cuda": False, "cpu_bf16": True}, {"requested": "32-true"}, "32-true"),
    ],
)
def test_choose_precision_measures_only_if_needed(monkeypatch, machine, options, expected):
    _machine(monkeypatch, **machine)
    monkeypatch.setattr(precision, "measure_steps", lambda *_: pytest.fail("measured"))
    assert _choose(**options) == precision.Precision(expected, {})


def test_choose_precision_stores_measurements_by_network_and_shape(monkeypatch, tmp_path):
    _machine(monkeypatch, cuda=False, cpu_bf16=True)
    shapes = []
    monkeypatch.setattr(
        precision, "measure_steps", lambda net, step, shape: StepTimes(shapes.append(shape) or TIMES, True)
    )
    for shape in (SHAPE, SHAPE, (4, *SHAPE[1:])):
        chosen = precision.choose_precision(
            "auto", "cpu", nn.Conv2d(3, 4, 3), RecordedStep(), shape, steps=1000, cache_dir=tmp_path
        )
        assert chosen == precision.Precision("bf16-mixed", TIMES)
    wider = precision.choose_precision(
        "auto", "cpu", nn.Conv2d(3, 8, 3), RecordedStep(), SHAPE, steps=1000, cache_dir=tmp_path
    )
    assert wider.name == "bf16-mixed"
    assert shapes == [SHAPE, (4, *SHAPE[1:]), SHAPE]
    for file in (tmp_path / "precision").iterdir():
        file.write_text("{")  # a damaged file is measured again
    assert precision.choose_precision(
        "auto", "cpu", nn.Conv2d(3, 4, 3), RecordedStep(), SHAPE, steps=1000, cache_dir=tmp_path
    ).step_ms
    assert len(shapes) == 4


def test_unsteady_measurement_is_used_but_not_stored(monkeypatch, tmp_path):
    _machine(monkeypatch, cuda=False, cpu_bf16=True)
    monkeypatch.setattr(precision, "measure_steps", lambda *_: StepTimes(TIMES, False))
    net = nn.Conv2d(3, 4, 3)
    chosen = precision.choose_precision("auto", "cpu", net, RecordedStep(), SHAPE, steps=1000, cache_dir=tmp_path)
    assert chosen == precision.Precision("bf16-mixed", TIMES)
    assert not list(tmp_path.rglob("*.json"))


def test_measurement_changes_neither_network_nor_random_numbers():
    net, step = nn.Conv2d(3, 4, 3), RecordedStep()
    before, state = net.weight.clone(), torch.get_rng_state()
    times = precision.measure_steps(net, step, SHAPE).ms
    torch.testing.assert_close(net.weight, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert times.keys() == TIMES.keys()
    timed = [bf16 for bf16, images in step.calls if images == SHAPE[0]]
    assert timed.count(True) == timed.count(False) > 1, "each precision is timed on the whole batch"


def test_measurement_of_a_long_step_uses_a_part_of_the_batch(monkeypatch):
    counts = []

    def seconds(step, net, images, name):
        counts.append(len(images))
        return 0.1 * len(images) * (2 if name == "32-true" else 1)

    monkeypatch.setattr(precision, "_seconds", seconds)
    times = precision.measure_steps(nn.Conv2d(3, 4, 3), RecordedStep(), (64, 3, 4, 4), seconds=4.0).ms
    assert max(counts) < 8
    assert times == {"32-true": pytest.approx(12_800), "bf16-mixed": pytest.approx(6_400)}, "times of the whole batch"


def test_one_slow_step_does_not_decide_although_the_time_is_over(monkeypatch):
    taken = {"32-true": iter([2.0] * 9), "bf16-mixed": iter([1.0, 1.0, 9.0, 1.0, 1.0, 1.0])}  # two untimed, then slow
    monkeypatch.setattr(precision, "_seconds", lambda step, net, images, name: next(taken[name]))
    times = precision.measure_steps(nn.Conv2d(3, 4, 3), RecordedStep(), (2, 3, 4, 4), seconds=0.0)
    assert times.ms == {"32-true": pytest.approx(2_000), "bf16-mixed": pytest.approx(1_000)}


@pytest.mark.skipif(not precision._cpu_has_bf16(), reason="bf16 is emulated on this CPU")
def test_measurement_of_a_classifier_changes_no_gradients_or_statistics(tiny):
    module = tiny.module(create_backbone("lcnet_050", 3, pretrained=False))
    statistics = {name: value.clone() for name, value in module.net.named_buffers()}
    times = precision.measure_steps(module.net, module.timing_step, (2, 3, 32, 32), seconds=0.1).ms
    assert all(0 < ms < 60_000 for ms in times.values())
    assert all(parameter.grad is None for parameter in module.net.parameters())
    assert all(torch.equal(value, statistics[name]) for name, value in module.net.named_buffers())
