"""Every file of conf/ composes, and the whole config instantiates."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import conf
from lightning_modules import ModelError

CONF = Path(conf.__file__).parent
GROUPS = (
    "model",
    "data",
    "augment",
    "sampler",
    "objective",
    "optimizer",
    "prune",
    "trainer",
    "callbacks",
    "logger",
    "score",
    "ship",
    "experiment",
    "road",
)
OPTIONS = sorted(
    (group, file.stem) for group in GROUPS for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_")
)
LISTS = ("callbacks", "logger")


def composed(*overrides: str, config: str = "train"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config, overrides=["run_dir=unused", *overrides])


def test_there_are_as_many_options_as_the_folders_hold():
    assert len(OPTIONS) == 93


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_resolves(group, option):
    if (group, option) == ("data", "checkpoint"):
        pytest.skip("belongs to evaluate.yaml")
    choice = f"{group}=[{option}]" if group in LISTS else f"{group}={option}"
    extra = {"timm": ["model.name=resnet10t"]}.get(option, ["experiment=compress_resnet18d"] * (group == "road"))
    cfg = composed(choice, *extra)
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert plain["epochs"] > 0
    assert "${" not in str(plain)


@pytest.mark.parametrize("treatment", sorted(file.stem for file in (CONF / "treatment").glob("*.yaml")))
def test_every_treatment_of_imbalance_is_named_and_composes(treatment):
    cfg = composed("experiment=imbalance", f"treatment={treatment}")
    assert cfg.name == treatment
    assert cfg.data.keep == {"trash": 0.2}


@pytest.mark.parametrize(("group", "option"), [("sweeper", "tpe"), ("sweeper", "pareto"), ("launcher", "joblib")])
def test_hydra_options_compose_with_a_comment_on_each_value(group, option):
    cfg = composed(f"hydra/{group}={option}")
    assert "hydra" not in cfg
    for line in (CONF / "hydra" / group / f"{option}.yaml").read_text().splitlines():
        if ": " in line and not line.startswith(("#", "defaults", "_target_")) and "_target_" not in line:
            assert " # " in line, line


def test_evaluation_composes():
    cfg = composed("ckpt=best.ckpt", config="evaluate")
    assert cfg.split == "auto"


def test_experiment_wins_over_the_groups_above_it():
    stem = next(name for group, name in OPTIONS if group == "experiment")
    text = (CONF / "experiment" / f"{stem}.yaml").read_text()
    expected = OmegaConf.create(text)
    cfg = composed(f"experiment={stem}")
    for key in expected.get("trainer", {}):
        assert OmegaConf.select(cfg, f"trainer.{key}") == expected.trainer[key]
    assert cfg.epochs == expected.epochs


@pytest.mark.parametrize("group", ["optimizer", "score", "augment", "objective"])
def test_parts_instantiate_from_their_defaults(group):
    cfg = composed()
    extra = {"class_counts": [3, 4]} if group == "objective" else {}
    assert instantiate(cfg[group], **extra) is not None


def test_unknown_key_is_refused():
    with pytest.raises(Exception, match="max_epoch"):
        composed("trainer.max_epoch=3")


def test_a_list_that_a_resumed_run_already_has_may_be_repeated():
    stored = conf.portable(composed("latency.batches=[1]", "run_dir=x"))
    assert conf.on_top(stored, ["latency.batches=[1]", "epochs=3"]).epochs == 3
    with pytest.raises(ModelError, match=r"^latency\.batches=\[1,2\] cannot change"):
        conf.on_top(stored, ["latency.batches=[1,2]"])
