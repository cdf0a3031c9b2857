import pytest
import torch

from deployment.predictors import best_device
from litesort.errors import DeploymentError


@pytest.mark.parametrize(
    ("accelerator", "found", "device"),
    [
        ("auto", (), "cpu"),
        ("auto", ("cuda", "mps"), "cuda"),
        ("auto", ("mps",), "cpu"),
        ("gpu", ("cuda",), "cuda"),
        ("cuda:1", ("cuda",), "cuda:1"),
        ("mps", ("mps",), "mps"),
        ("cpu", ("cuda",), "cpu"),
    ],
)
def test_device_of_an_accelerator(monkeypatch, accelerator, found, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in found)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in found)
    assert best_device(accelerator) == torch.device(device)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "tpu"])
def test_missing_device_is_named_with_those_that_exist(monkeypatch, accelerator):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeploymentError, match=rf"^accelerator={accelerator} is not available here: .* cpu$"):
        best_device(accelerator)
