import logging
import platform
from pathlib import Path

import pytest
import torch

from lightning_modules import precision
from litesort.errors import ModelError


@pytest.fixture(autouse=True)
def _reset_logged_messages(monkeypatch):
    monkeypatch.setattr(precision, "_logged", set())


def _machine(monkeypatch, *, cuda: bool, gpu_bf16: bool = True, cpu_bf16: bool = False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_bf16)
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: cpu_bf16)


@pytest.mark.parametrize(
    ("asked", "accelerator", "machine", "expected"),
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
    ],
)
def test_supported_precision_by_device(monkeypatch, asked, accelerator, machine, expected):
    _machine(monkeypatch, **machine)
    assert precision.supported_precision(asked, accelerator) == expected


def test_cpu_has_bf16_matches_cpuinfo():
    info = Path("/proc/cpuinfo")
    if not info.is_file() or platform.machine() != "x86_64":
        pytest.skip("/proc/cpuinfo of an x86 CPU is needed for the comparison")
    flags = set(info.read_text().split())
    assert precision._cpu_has_bf16() == bool(flags & {"avx512_bf16", "amx_bf16"})


def test_supported_precision_logs_reason(monkeypatch, caplog):
    _machine(monkeypatch, cuda=False)
    precision.supported_precision("bf16-mixed", "cpu")
    assert "this CPU has no bf16 units, training in 32-true instead" in caplog.text


@pytest.mark.parametrize("asked", [64, "64-true"])
def test_supported_precision_rejects_double_precision(asked):
    with pytest.raises(ModelError, match=rf"^trainer\.precision={asked} is not supported.*give 32-true$"):
        precision.supported_precision(asked, "cpu")


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
