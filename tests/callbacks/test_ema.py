"""EMA, compared with an independent implementation."""

import pytest
import pytorch_lightning as pl
import torch

from callbacks.checkpoint import RunCheckpoint
from callbacks.ema import EMA
from litesort.errors import ModelError


class Reference(pl.Callback):
    """Reference implementation in float64, one tensor at a time."""

    def __init__(self, decay):
        self.decay = decay
        self.average = None
        self.steps = 0
        self.validated = []

    def on_train_start(self, trainer, pl_module):
        self.average = {
            k: v.double() if v.is_floating_point() else v.clone() for k, v in pl_module.state_dict().items()
        }

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.steps:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in pl_module.state_dict().items():
            if value.is_floating_point():
                self.average[key] = decay * self.average[key] + (1 - decay) * value.double()
            else:
                self.average[key] = value.clone()
        self.steps = trainer.global_step

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.append({k: v.clone() for k, v in pl_module.state_dict().items()})

    def assert_equals(self, state):
        for key, value in self.average.items():
            torch.testing.assert_close(state[key], value.to(state[key].dtype), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_average_equals_formula(tmp_path, make_module, make_trainer, data, accumulate):
    reference = Reference(0.7)  # the warm-up reaches 0.7 after 20 steps: both branches of the formula
    trainer = make_trainer(EMA(0.7), reference, epochs=7, accumulate_grad_batches=accumulate)
    module = make_module()
    trainer.fit(module, datamodule=data)
    assert reference.steps == 28 // accumulate
    reference.assert_equals(module.state_dict())
    reference.assert_equals(reference.validated[-1])  # validation used the average
    assert module.net.net.bn.num_batches_tracked == 28


def test_checkpoints_hold_the_average_and_a_test_uses_it(tmp_path, make_module, make_trainer, data):
    module, reference = make_module(), Reference(0.9)
    trainer = make_trainer(EMA(0.9), reference, RunCheckpoint(str(tmp_path), "val/loss", "min"), epochs=2)
    trainer.fit(module, datamodule=data)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    reference.assert_equals(saved["state_dict"])
    raw = saved["current_model_state"]
    assert not torch.equal(raw["net.net.conv.weight"], saved["state_dict"]["net.net.conv.weight"])

    best = trainer.checkpoint_callback.best_model_path
    trainer.test(module, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
    expected = torch.load(best, weights_only=True)["state_dict"]
    torch.testing.assert_close(dict(module.state_dict()), dict(expected), rtol=0, atol=0)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_decay_out_of_range_raises_model_error(decay):
    with pytest.raises(ModelError, match=r"callbacks\.ema\.decay"):
        EMA(decay)
