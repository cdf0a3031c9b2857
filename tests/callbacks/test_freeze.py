"""First layers as they are, the rest trained."""

import copy

import pytest
import torch

from callbacks.freeze import Freeze
from callbacks.head_warmup import HeadWarmup
from lightning_modules import ModelError


def test_frozen_parts_stay_to_the_last_statistic(make_module, make_trainer, data):
    module = make_module()
    start = copy.deepcopy(module.net.net.state_dict())
    make_trainer(HeadWarmup(1), Freeze(["bn"]), epochs=3).fit(module, datamodule=data)
    end = module.net.net.state_dict()
    assert {key for key in start if torch.equal(start[key], end[key])} == {
        key for key in start if key.startswith("bn.")
    }


def test_frozen_parameters_are_no_part_of_the_optimiser(make_module, make_trainer, data):
    module = make_module()
    trainer = make_trainer(Freeze(["conv"]), epochs=1)
    trainer.fit(module, datamodule=data)
    held = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert id(module.net.net.conv.weight) not in held
    assert id(module.net.net.fc.weight) in held


@pytest.mark.parametrize(("names", "hint"), [(["stem"], "stem.*conv"), (["conv", "bn"], "nothing of the body")])
def test_names_that_make_no_sense(names, hint, make_module, make_trainer, data):
    with pytest.raises(ModelError, match=hint):
        make_trainer(Freeze(names), epochs=1).fit(make_module(), datamodule=data)


def test_no_names_does_nothing_is_an_error():
    with pytest.raises(ModelError, match="does nothing"):
        Freeze([])
