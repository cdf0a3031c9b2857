"""Errors in command lines: one line with key, value and hint, before any image is read."""

import pytest
from configs import composed
from entry_points import run, run_all

from litesort.cli.build import build_score_and_latency
from litesort.cli.validate import check
from litesort.errors import ModelError


def configured(*overrides: str):
    return composed("train", "run_dir=unused", *overrides)


@pytest.mark.parametrize(
    "override",
    [
        "epochs=0", "epochs=1.5", "epochs=many", "trainer.max_epochs=-1", "seed=-1", "target_accuracy=2",
        "data.size=big", "data.size=32.5", "data.root=2024", "data.fold=first", "optimizer.lr=fast",
        "score.steepness=x",
        "latency.batches=1", "latency.batches=[one]", "latency.settings.seconds=long", "classifier.compile=maybe",
        "trainer.gradient_clip_val=x", "trainer.accumulate_grad_batches=x", "objective.tau=x",
        "augment.transforms.flip.p=often", "callbacks.progress.refresh_rate=x",
    ],
)  # fmt: skip
def test_wrong_type_error_names_key_and_value(override):
    key, _, value = override.partition("=")
    with pytest.raises(ModelError, match="is invalid: expected") as caught:
        check(configured(override))
    assert str(caught.value).startswith(f"{key}=")
    assert value.strip("[]") in str(caught.value)


def test_settings_of_unlisted_callbacks_are_refused():
    with pytest.raises(
        ModelError, match=r"^callbacks\.finetuning is set, but callbacks does not include it: give .*null$"
    ):
        check(configured("experiment=finetune", "callbacks=[default,ema]"))
    check(configured("experiment=finetune", "callbacks=[default,ema,finetuning]"))
    check(configured("experiment=finetune", "callbacks.finetuning=null"))


def test_required_callbacks_cannot_be_disabled():
    with pytest.raises(ModelError, match="expected checkpoint too"):
        check(configured("callbacks.checkpoint=null"))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("score.steepness=-1", "score.steepness"),
        ("score.reference=resnet99", "score.reference"),
        ("latency.batches=[]", "latency.batches"),
        ("latency.batches=[0]", "latency.batches"),
        ("latency.batches=[32]", "latency.batches"),
        ("latency.images=0", "latency.images"),
        ("latency.device=toaster", "latency.device"),
    ],
)
def test_invalid_score_and_latency_settings_are_refused_before_training(override, key):
    with pytest.raises(Exception, match=rf"{key}=.* (is|lacks) "):
        build_score_and_latency(configured(override))


def test_end_to_end_score_needs_the_end_to_end_latency():
    with pytest.raises(Exception, match=r"latency\.end_to_end=false"):
        build_score_and_latency(configured("score=boostcamp", "latency.end_to_end=false"))


COMMAND_LINES = {
    "model=resnet99": "model=resnet99 does not exist: did you mean resnet",
    "trainer.max_epoch=3": "trainer.max_epoch is not a setting: did you mean max_epochs?",
    "-m experiment=foo": "experiment=foo does not exist: choose one of backbones, baseline, ",
    "callbacks=[default,foo]": "callbacks=[foo] does not exist: choose from conf/callbacks",
    "model=resnet18,resnet34": "model=resnet18,resnet34 has several values: add -m to sweep over them",
    "data.size": "data.size cannot be read: write key=value",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The result of train.py for each of COMMAND_LINES."""
    commands = [["train.py", *arguments.split()] for arguments in COMMAND_LINES]
    return dict(zip(COMMAND_LINES, run_all(commands, tmp_path_factory.mktemp("commands")), strict=True))


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_composition_errors_are_one_line(arguments, results):
    done = results[arguments]
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {COMMAND_LINES[arguments]}")
    assert len(done.stderr.splitlines()) == 1


def test_missing_required_callbacks_are_named():
    with pytest.raises(ModelError, match=r"callbacks=.*checkpoint and history"):
        check(configured("callbacks=[ema]"))


def test_missing_checkpoint_creates_no_folder(tmp_path):
    done = run("train.py", "ckpt=gone/last.ckpt", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: ckpt=gone/last.ckpt does not exist: give the path of a file\n"
    assert not (tmp_path / "gone").exists()


def test_evaluation_without_a_checkpoint_is_an_error(tmp_path):
    done = run("evaluate.py", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ckpt is not given")


@pytest.mark.parametrize("override", ["data.file=list.csv", "data.root=photos"])
def test_root_or_file_that_the_source_does_not_read_is_refused(override):
    kind = ["data=folder", "data.root=photos"] if "file" in override else ["data=folder", "data.source.root=here"]
    with pytest.raises(ModelError, match=rf"^{override} is not read by \w+Source: leave it out"):
        check(configured(*kind, override))
    check(configured("data=filelist", "data.root=photos", "data.file=list.csv"))
