import pytest
import torch

from deployment.predictors import best_device, load_artifact
from lightning_modules.checkpoint import MODEL_CARD, load_net
from litesort.errors import DeploymentError


@pytest.mark.parametrize(
    ("accelerator", "available", "device"),
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
def test_best_device_of_an_accelerator(monkeypatch, accelerator, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in available)
    assert best_device(accelerator) == torch.device(device)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "tpu"])
def test_best_device_names_the_missing_and_the_available_devices(monkeypatch, accelerator):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeploymentError, match=rf"^accelerator={accelerator} is not available here: .* cpu$"):
        best_device(accelerator)


def test_load_artifact_opens_a_checkpoint(tmp_path, trained):
    state = {f"net.{key}": value for key, value in trained.net.state_dict().items()}
    torch.save({"state_dict": state, MODEL_CARD: trained.card}, tmp_path / "best.ckpt")
    artifact = load_artifact(tmp_path / "best.ckpt", load_net)
    assert artifact.net is not None
    torch.testing.assert_close(artifact.predict(trained.pixels), torch.from_numpy(trained.expected))
    assert artifact.card["classes"] == trained.classes
