"""Progressive resizing: the first epochs train on smaller images."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from callbacks.checkpoint import RunCheckpoint
from callbacks.progressive_resizing import ProgressiveResizing
from litesort.errors import ModelError


class Sizes(pl.Callback):
    """Record image size and mode (training or evaluation) of each call of the network's first layer."""

    def __init__(self):
        self.seen = []

    def on_fit_start(self, trainer, pl_module):
        conv = pl_module.net.net.conv
        conv.register_forward_pre_hook(lambda m, args: self.seen.append((m.training, tuple(args[0].shape[2:]))))

    def sides(self, training):
        return [shape[0] for mode, shape in self.seen if mode == training]


def test_training_side_grows_and_validation_uses_the_full_side(make_module, make_trainer, data):
    sizes = Sizes()
    resizing = ProgressiveResizing(0.5, delay_fraction=0.25, finetune_fraction=0.25, size_increment=2)
    make_trainer(resizing, sizes, epochs=8).fit(make_module(), datamodule=data)
    steps = len(sizes.sides(True)) // 8
    assert sizes.sides(True)[::steps] == [4, 4, 4, 4, 6, 6, 8, 8]
    assert set(sizes.sides(False)) == {8}


def test_resumed_run_continues_at_its_side_and_hooks_are_removed(tmp_path, make_module, make_trainer, data):
    def callbacks():
        return ProgressiveResizing(0.5, 0.5, 0.5, size_increment=4), RunCheckpoint(str(tmp_path))

    class Stop(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    module = make_module()
    make_trainer(*callbacks(), Stop(), epochs=4).fit(module, datamodule=data)
    assert not module.net._forward_pre_hooks
    sizes = Sizes()
    make_trainer(*callbacks(), sizes, epochs=4).fit(
        make_module(), datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert set(sizes.sides(True)) == {8}


def test_resized_images_keep_their_mean_and_memory_format(make_module):
    images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    module, seen = make_module(), []
    trainer = SimpleNamespace(current_epoch=0, max_epochs=2)
    resizing = ProgressiveResizing(0.5, 0.5, 0.5, size_increment=4)
    resizing.on_train_epoch_start(trainer, module)
    module.net.net.conv.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    module.train()(images)
    assert seen[0].shape == (2, 3, 4, 4)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    resized = seen[0] * module.net.std + module.net.mean  # the network normalises its input
    torch.testing.assert_close(resized.mean((2, 3)), images.mean((2, 3)), atol=0.06, rtol=0)


FRACTIONS = st.floats(0, 1)


@given(st.floats(0.05, 0.95), FRACTIONS, FRACTIONS, st.integers(1, 32), st.integers(64, 300), st.integers(1, 60))
def test_side_never_decreases_and_ends_at_the_full_side(scale, delay, finetune, increment, full, epochs):
    assume(delay + finetune <= 1 and scale * full >= increment)
    resizing = ProgressiveResizing(scale, delay, finetune, increment)
    sides = [resizing.side(full, epoch, epochs) for epoch in range(epochs)]
    assert sides == sorted(sides)
    assert all(1 <= side <= full and (side == full or side % increment == 0) for side in sides)
    assert all(sides[epoch] == full for epoch in range(epochs) if epoch >= (1 - finetune) * epochs)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"initial_scale": 1.0}, "initial_scale=1.0"),
        ({"initial_scale": 0}, "initial_scale=0"),
        ({"delay_fraction": 0.6, "finetune_fraction": 0.5}, "delay_fraction=0.6"),
        ({"finetune_fraction": -0.1}, "finetune_fraction=-0.1"),
        ({"size_increment": 0}, "size_increment=0"),
    ],
)
def test_settings_out_of_range_raise_model_error(settings, key):
    with pytest.raises(ModelError, match=key):
        ProgressiveResizing(**settings)


def test_side_of_0_raises_model_error(make_module, make_trainer, data):
    with pytest.raises(ModelError, match="size_increment=32"):
        make_trainer(ProgressiveResizing()).fit(make_module(), datamodule=data)
