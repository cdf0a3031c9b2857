"""Every option of conf/ composes, resolves and is accepted, and the parts instantiate."""

import functools

import pytest
from configs import composed
from hydra.utils import instantiate
from omegaconf import OmegaConf

from litesort.cli.compose import CONF, merge_overrides, portable
from litesort.cli.quoting import expand_globs
from litesort.cli.validate import check
from litesort.errors import ModelError

GROUPS = (
    "model", "data", "augment", "sampler", "objective", "optimizer", "prune", "trainer", "callbacks", "logger", "score",
    "latency", "export", "experiment",
)  # fmt: skip
OPTIONS = sorted(
    (group, str(file.relative_to(CONF / group).with_suffix("")))
    for group in GROUPS
    for file in (CONF / group).rglob("[!_]*.yaml")
)
OPTIONS.remove(("data", "checkpoint"))  # evaluate.yaml uses it
FORMS = {"callbacks": "callbacks=[default,{}]", "logger": "logger=[{}]"}


def configured(*overrides: str, config: str = "train"):
    return composed(config, "run_dir=unused", *overrides)


def test_each_group_has_options():
    assert {group for group, _ in OPTIONS} == set(GROUPS)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_resolves_and_is_accepted(group, option):
    choice = FORMS.get(group, f"{group}={{}}").format(option)
    cfg = configured(choice, *(["model.name=resnet10t"] if choice == "model=timm" else []))
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert plain["epochs"] > 0
    assert "${" not in str(plain)
    assert check(cfg) is cfg


@pytest.mark.parametrize("option", [option for _, option in OPTIONS if option.startswith("imbalance/")])
def test_imbalance_experiments_are_named_after_their_file(option):
    cfg = configured(f"experiment={option}")
    assert option == f"imbalance/{cfg.name}"
    assert cfg.data.class_fraction == {"trash": 0.2}


@pytest.mark.parametrize(("group", "option"), [("sweeper", "tpe"), ("sweeper", "pareto"), ("launcher", "joblib")])
def test_hydra_options_compose(group, option):
    cfg = configured(f"hydra/{group}={option}")
    assert cfg.epochs > 0
    assert "hydra" not in cfg


def test_glob_expands_to_the_files_of_a_folder():
    (argument,) = expand_globs(["experiment=glob(compress/*)"], CONF)
    files = sorted(file.stem for file in (CONF / "experiment/compress").glob("[0-9]*.yaml"))
    assert argument == "experiment=" + ",".join(f"compress/{name}" for name in files)
    assert expand_globs(["experiment=glob(*)", "x=1"], CONF) == ["experiment=glob(*)", "x=1"]


def test_choosing_data_does_not_change_the_length_of_a_training():
    sources = [option for group, option in OPTIONS if group == "data"]
    assert len({configured(f"data={option}").epochs for option in sources}) == 1


def test_evaluation_composes():
    cfg = configured("ckpt=best.ckpt", config="evaluate")
    assert cfg.split == "auto"


def test_experiment_overrides_the_groups():
    default, cfg = configured(), configured("experiment=linear_probe")
    for key in ("trainer.gradient_clip_val", "data.resize", "epochs"):
        value = OmegaConf.select(OmegaConf.load(CONF / "experiment/linear_probe.yaml"), key)
        assert OmegaConf.select(cfg, key) == value != OmegaConf.select(default, key)


@pytest.mark.parametrize("group", ["optimizer", "score", "augment", "objective"])
def test_parts_instantiate_from_their_defaults(group):
    cfg = configured()
    extra = {"class_counts": [3, 4]} if group == "objective" else {}
    part = instantiate(cfg[group], **extra)
    made = part.func if isinstance(part, functools.partial) else type(part)
    assert made.__name__ == cfg[group]._target_.rpartition(".")[2]


def test_unknown_key_is_refused():
    with pytest.raises(Exception, match="max_epoch"):
        configured("trainer.max_epoch=3")


def test_resumed_run_accepts_an_unchanged_list():
    stored = portable(configured("latency.batches=[1]", "run_dir=x"))
    again = ["latency.batches=[1]", "epochs=3"]
    assert merge_overrides(configured(*again), stored, again).epochs == 3
    with pytest.raises(ModelError, match=r"^latency\.batches=\[1,2\] cannot change"):
        merge_overrides(configured("latency.batches=[1,2]"), stored, ["latency.batches=[1,2]"])
