"""Distillation and pruning with the entry points, with tiny networks and images."""

import json
from functools import partial
from pathlib import Path

import entry_points
import pytest
import torch
from configs import QUICK_LATENCY, QUIET_CPU, SMALL_FOLDER, TINY_NET, composed
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tiny_training import history_rows

from lightning_modules.checkpoint import MODEL_CARD, read_checkpoint
from litesort.cli import compose as configs
from litesort.cli.build import resumed_config
from litesort.cli.stored_config import check_run
from litesort.errors import ModelError
from train import train

ROOT = Path(__file__).parent.parent
QUICK = (*QUICK_LATENCY, *QUIET_CPU, "trainer.log_every_n_steps=2")


def configured(folder: Path, *overrides: str):
    return composed("train", *QUICK, f"run_dir={folder}", *overrides)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, image_folder) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    train(configured(folder, *TINY_NET, *SMALL_FOLDER, f"data.root={image_folder}", "epochs=2"))
    return folder / "best.ckpt"


def test_student_of_another_family_is_stored_without_its_teacher(teacher, image_folder, tmp_path):
    student = ("model=lcnet_050", "model.pretrained=false", "epochs=2", "callbacks=[default,ema]")
    objective = ("objective=distill_feature", f"teacher={teacher}", "objective.levels=[-1]")
    results = train(configured(tmp_path, *SMALL_FOLDER, f"data.root={image_folder}", *student, *objective))
    assert results["model"] == "lcnet_050"
    rows = history_rows(tmp_path)
    assert len({row["val/teacher_f1_macro"] for row in rows}) == 1  # the teacher does not change
    assert all(0 <= float(row["val/agreement"]) <= 1 for row in rows)
    assert all(float(row["train/features"]) > 0 for row in rows)
    checkpoint = read_checkpoint(tmp_path / "best.ckpt")
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"net", "objective"}
    size = sum(value.numel() for key, value in checkpoint["state_dict"].items() if key.startswith("net."))
    assert size < 700_000  # the teacher has five million
    assert checkpoint[MODEL_CARD]["config"]["teacher"] == str(teacher)


def test_exported_file_as_teacher(teacher, image_folder, tmp_path):
    pytest.importorskip("onnxruntime")
    from deployment.formats import FORMATS
    from lightning_modules.checkpoint import load_net

    net, card = load_net(teacher)
    path = FORMATS["onnx"].write(net, tmp_path / "teacher.onnx", card)
    student = ("model=lcnet_050", "model.pretrained=false", "epochs=1", "logger=none", "latency.end_to_end=false")
    objective = ("objective=distill_logit", f"teacher={path}")
    train(configured(tmp_path, *SMALL_FOLDER, f"data.root={image_folder}", *student, *objective))
    (row,) = history_rows(tmp_path)
    f1 = json.loads((teacher.parent / "metrics.json").read_text())["val/f1_macro"]
    assert float(row["val/teacher_f1_macro"]) == pytest.approx(f1, abs=1e-6)


run = partial(entry_points.run, "train.py")


def test_pruned_network_trains_with_the_original_as_teacher(teacher, image_folder, tmp_path):
    pytest.importorskip("torch_pruning")
    pruning = (f"ckpt_init={teacher}", "prune=structured", "prune.macs=0.6")
    distil = ("objective=distill_logit", f"teacher={teacher}", "epochs=1", "logger=none")
    done = run(*QUICK, *pruning, *distil, f"hydra.run.dir={tmp_path / 'small'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "layer4.0.conv1" in done.stdout
    results = json.loads((tmp_path / "small" / "metrics.json").read_text())
    before = json.loads((teacher.parent / "metrics.json").read_text())
    assert results["model"] == "resnet10t"
    assert results["size"] == 32  # from the checkpoint, because no override sets it
    assert results["images"] == before["images"]
    assert 0.4 < results["macs"] / before["macs"] <= 0.6
    first = torch.load(tmp_path / "small" / "best.ckpt", weights_only=True)[MODEL_CARD]
    assert len(first["pruning"]) == 1

    resumed = run(f"ckpt={tmp_path / 'small' / 'last.ckpt'}", "epochs=2", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    last = torch.load(tmp_path / "small" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 1
    assert last[MODEL_CARD]["pruning"] == first["pruning"]  # a resumed run does not prune again


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=distill_logit"], "teacher is not given"),
        (["objective=distill_logit", "teacher=nowhere.ckpt"], "teacher=nowhere.ckpt does not exist"),
        (["objective=distill_logit", "teacher=TEACHER", "data=synthetic"], "has no class"),
        (["objective=distill_logit", "teacher=TEACHER", "objective.alpha=0"], "the teacher does nothing"),
        (["prune=structured", "prune.macs=2"], "prune.macs=2"),
    ],
)
def test_invalid_settings_are_refused_before_training(overrides, message, teacher, image_folder, tmp_path):
    overrides = [text.replace("TEACHER", str(teacher)) for text in overrides]
    if "data=synthetic" in overrides:
        overrides += ["data.source.num_images=40", "data.size=32"]
    else:
        overrides += [*SMALL_FOLDER, f"data.root={image_folder}"]
    with pytest.raises(Exception, match=message):
        train(configured(tmp_path, *overrides, "model=lcnet_050", "model.pretrained=false", "logger=none"))


def test_model_override_with_ckpt_init_is_refused(teacher):
    stored = read_checkpoint(teacher)[MODEL_CARD]["config"]
    cfg = configured(Path("unused"), "model=lcnet_050", f"ckpt_init={teacher}")
    with pytest.raises(Exception, match="model does nothing with ckpt_init"):
        configs.init_from(cfg, stored, ["model=lcnet_050", f"ckpt_init={teacher}"])


def test_data_overrides_win_over_ckpt_init(teacher, image_folder):
    stored = read_checkpoint(teacher)[MODEL_CARD]["config"]
    overrides = ["data.batch_size=4", "seed=7"]
    started = configs.init_from(configured(Path("unused"), *overrides), stored, overrides)
    assert (started.data.batch_size, started.data.size, started.seed) == (4, 32, 7)
    assert (started.data.root, started.model.name) == (str(image_folder), "resnet10t")
    overrides = ["data=synthetic"]
    started = configs.init_from(configured(Path("unused"), *overrides), stored, overrides)
    assert (started.data.size, started.data.root) == (32, None)


@pytest.mark.parametrize("start", ["ckpt", "ckpt_init"])
@pytest.mark.parametrize(
    ("key", "harm"),
    [
        ("data", {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["harm"]}}),
        ("data.source", {"_target_": "os.system", "command": "touch harm"}),
        ("data.source.kinds", [{"_target_": "os.system", "command": "touch harm"}]),
        ("data.source", "${model.harm}"),
        ("data.source", "${oc.decode:'{_target_: os.system, command: touch harm}'}"),
        (
            "data.root",
            "\\${oc.create:'{_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [harm]}}'}",
        ),
        ("trainer.plugins", [{"_target_": "os.system", "command": "touch harm"}]),
        ("objective", {"_target_": "${tags.0}", "command": "touch harm"}),
        ("export", {"_target_": "export.export_later", "score": "\\${oc.decode:'{_target_: os.system}'}"}),
    ],
)
def test_resumed_run_builds_no_class_that_only_the_checkpoint_names(start, key, harm, teacher, tmp_path, monkeypatch):
    if start == "ckpt_init" and not key.startswith("data"):
        pytest.skip("ckpt_init uses the data settings only")
    monkeypatch.chdir(tmp_path)
    checkpoint = torch.load(teacher, weights_only=True)
    stored = OmegaConf.create(checkpoint[MODEL_CARD]["config"])
    OmegaConf.update(stored, "tags", ["os.system"])
    OmegaConf.update(stored, "model.harm", {"_target_": "os.system", "command": "touch harm"}, force_add=True)
    if start == "ckpt" and harm != "${model.harm}":
        del stored.model.harm
    OmegaConf.update(stored, key, harm, merge=False, force_add=True)
    checkpoint[MODEL_CARD]["config"] = configs.plain(stored, resolve=False)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    overrides = [f"{start}={tmp_path / 'last.ckpt'}"]
    with pytest.raises(ModelError, match=r"which no file of conf/ names|it is refused") as caught:
        resumed_config(configured(tmp_path / "run", *overrides), overrides)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("objective", ["cross_entropy", "focal", "class_weighted", "logit_adjusted"])
def test_teacher_of_a_sweep_is_ignored_without_distillation(objective, teacher, monkeypatch, caplog):
    overrides = [f"objective={objective}", f"teacher={teacher}"]
    with pytest.raises(ModelError, match=r"^teacher=.* does nothing with this objective: choose objective=distill"):
        resumed_config(configured(Path("unused"), *overrides), overrides)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": {"mode": "MULTIRUN"}}))
    assert resumed_config(configured(Path("unused"), *overrides), overrides).teacher is None
    assert "its objective learns from labels alone" in caplog.text
    overrides[0] = "objective=distill_logit"
    assert resumed_config(configured(Path("unused"), *overrides), overrides).teacher == str(teacher)


def test_class_named_on_the_command_line_may_be_built(teacher, image_folder):
    own = ["data.source._target_=collections.Counter", f"ckpt_init={teacher}"]
    cfg = configured(Path("unused"), *SMALL_FOLDER, f"data.root={image_folder}", *own)
    assert resumed_config(cfg, own).data.source._target_ == "collections.Counter"
    for objective in ("distill_logit", "focal"):  # the configs of litesort itself are accepted
        checkpoint = configured(Path("unused"), f"objective={objective}", "callbacks=[default,ema]", "export=all")
        values = configs.portable(checkpoint)
        assert check_run(values, {}, list(values))["trainer"]["max_epochs"] == checkpoint.epochs
