"""Runs, sweeps and exports that start in the same second get different folders."""

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from pathlib import Path

import entry_points
import pytest
from configs import TINY_RUN
from entry_points import run_all
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from litesort.cli import resume
from litesort.cli.compose import CONF
from litesort.cli.folders import EXPORT, create_unique_folder, export_folder, network_name, refuse_used
from litesort.errors import ModelError

ROOT = Path(__file__).parents[1]
TINY = (*TINY_RUN, "epochs=1", "latency.end_to_end=false", "mistakes=0")
# sitecustomize.py of the processes of a test: Hydra gets this time instead of the current one.
FIXED_TIME = """
import datetime
import hydra.core.utils as utils

class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 31, 12)

utils.datetime = FixedTime
"""
RUN_AT_FIXED_TIME = """
import runpy, sys
runpy.run_path("sitecustomize.py")
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
APP = """
import json
from pathlib import Path
import hydra
from litesort.cli.compose import CONF

@hydra.main(version_base="1.3", config_path=".", config_name="app")
def main(cfg):
    row = {"status": "completed", "score": cfg.score, "name": cfg.tag}
    (Path(cfg.run_dir) / "metrics.json").write_text(json.dumps(row))

if __name__ == "__main__":
    main()
"""
CONFIG = """
score: 1.0
tag: x
resume: false
run_dir: ${hydra:runtime.output_dir}
hydra:
  sweep: {dir: "${fresh_dir:sweeps/${now:%S}}", subdir: "${hydra:job.num}"}
  callbacks: {sweep: {_target_: litesort.cli.SweepCallback}}
"""


def start(cwd: Path, script: str, *arguments: str) -> entry_points.Job:
    """Start a script in `cwd` at the fixed time, which its child processes get too."""
    (cwd / "sitecustomize.py").write_text(FIXED_TIME)
    (cwd / "run_at_fixed_time.py").write_text(RUN_AT_FIXED_TIME)
    environment = {**os.environ, "PYTHONPATH": f"{cwd}:{ROOT}", "COLUMNS": "200"}
    return entry_points.start(str(cwd / "run_at_fixed_time.py"), script, *arguments, cwd=cwd, env=environment)


def finish(*jobs: entry_points.Job) -> list[str]:
    """Wait until all jobs end with status 0; returns their output."""
    outputs = [job.communicate(timeout=300) for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), outputs
    return [out for out, _ in outputs]


@given(st.integers(1, 30), st.sampled_from(["a", "a.b", "a-2", "a b", "é"]))
@settings(max_examples=15, deadline=None)
def test_claims_in_threads_get_different_folders(tmp_path_factory, count, name):
    path = tmp_path_factory.mktemp("claims") / "deep" / name
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(create_unique_folder, [str(path)] * count))
    assert len(set(found)) == count
    assert sorted(map(str, path.parent.iterdir())) == sorted(found)
    assert str(path) in found
    assert all(Path(folder).name.startswith(name) for folder in found)


def test_claims_in_processes_get_different_folders(tmp_path):
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(create_unique_folder, [str(tmp_path / "run")] * 40))
    assert sorted(found) == sorted([str(tmp_path / "run"), *(str(tmp_path / f"run-{i}") for i in range(2, 41))])


def test_claim_returns_the_name_if_no_folder_can_be_created(tmp_path):
    (tmp_path / "file").touch()
    assert create_unique_folder(str(tmp_path / "file" / "run")) == str(tmp_path / "file" / "run")


def test_config_and_its_copies_have_one_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    text = {"hydra": {"mode": "RUN"}, "dir": f"${{fresh_dir:{tmp_path}/run}}"}
    one, other = OmegaConf.create(text), OmegaConf.create(text)
    assert one.dir == one.dir == one.copy().dir == str(tmp_path / "run")
    assert other.dir == str(tmp_path / "run-2")
    monkeypatch.setenv("LOCAL_RANK", "1")  # one of several processes of one run
    assert OmegaConf.create(text).dir == str(tmp_path / "run")


def test_resumed_run_uses_the_folder_of_its_checkpoint(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").touch()
    text = {
        "hydra": {"mode": "RUN"},
        "ckpt": f"{tmp_path}/run/last.ckpt",
        "dir": f"${{resume_dir:${{ckpt}},{tmp_path}/new}}",
    }
    assert OmegaConf.create(text).dir == str(tmp_path / "run")
    assert not (tmp_path / "new").exists()
    assert OmegaConf.create({**text, "ckpt": "gone"}).dir == str(tmp_path / "new")


def test_folder_of_a_run_is_named_by_its_network(tmp_path):
    (tmp_path / "config.yaml").write_text("model: {name: lcnet_050}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("[model")
    assert network_name(None, "resnet18d") == "resnet18d"
    assert network_name(str(tmp_path / "best.ckpt"), "resnet18d") == "lcnet_050"
    assert network_name(str(tmp_path / "other" / "best.ckpt"), "resnet18d") == "from-best"


def test_commands_without_a_run_create_no_folder(tmp_path):
    commands = [
        ["--help"],
        ["--cfg", "job"],
        ["--cfg", "all", "--resolve"],
        ["model=foo"],
        ["-m", "model=foo"],
        ["ckpt=gone/last.ckpt"],
        ["ckpt_init=gone.ckpt"],
    ]
    done = run_all([["train.py", *arguments] for arguments in commands], tmp_path)
    assert [result.returncode for result in done] == [0, 0, 0, 2, 2, 2, 2]
    assert list(tmp_path.iterdir()) == []


def test_trainings_in_the_same_second_have_two_folders(image_folder, tmp_path):
    quick = [*TINY, f"data.root={image_folder}"]
    several = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]  # two processes share one folder
    train = str(ROOT / "train.py")
    outputs = finish(start(tmp_path, train, *quick, "seed=1"), start(tmp_path, train, *quick, *several, "seed=2"))
    waiting = [line for text in outputs for line in text.splitlines() if "locked by another process" in line]
    assert all("data.cache:" in line for line in waiting)  # the runs share the cache, not the run folder
    folders = sorted((tmp_path / "runs" / "2026-01-31").iterdir())
    assert [folder.name for folder in folders] == ["12-00-00-resnet10t", "12-00-00-resnet10t-2"]
    assert {json.loads((folder / "metrics.json").read_text())["seed"] for folder in folders} == {1, 2}


@pytest.mark.parametrize("name", ["train", "evaluate", "explore"])
def test_folders_named_by_time_are_new_folders(name):
    folders = OmegaConf.load(CONF / f"{name}.yaml").hydra
    for place in (folders.run, folders.sweep):
        raw = OmegaConf.to_container(place, resolve=False)["dir"]
        assert raw.startswith(("${fresh_dir:", "${resume_dir:"))


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_sweeps_in_the_same_second_have_two_folders(tmp_path, launcher):
    arguments = ["-m", "tag=a,b"]
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra [joblib]")
        (tmp_path / "hydra" / "launcher").mkdir(parents=True)
        slots = (ROOT / "conf/hydra/launcher/joblib.yaml").read_text()
        (tmp_path / "hydra" / "launcher" / "slots.yaml").write_text(slots)
        arguments += ["hydra/launcher=slots", "hydra.launcher.n_jobs=2"]
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "app.yaml").write_text(CONFIG)
    finish(*(start(tmp_path, "app.py", *arguments, f"score={score}") for score in (1, 2)))
    sweeps = sorted((tmp_path / "sweeps").iterdir())
    assert [folder.name for folder in sweeps] == ["00", "00-2"]
    boards = [json.loads((folder / "leaderboard.json").read_text()) for folder in sweeps]
    assert [{row["name"] for row in board} for board in boards] == [{"a", "b"}] * 2
    assert sorted(({row["score"] for row in board} for board in boards), key=min) == [{1}, {2}]


@pytest.fixture
def ckpt(tmp_path):
    (tmp_path / "best.ckpt").touch()
    return str(tmp_path / "best.ckpt")


def exported(ckpt, out=None, overwrite=False):
    """Complete an export; returns the name of its folder."""
    with export_folder(ckpt, out, overwrite) as folder:
        (folder / EXPORT).write_text("{}")
    return folder.name


def test_finished_export_is_not_replaced(ckpt, tmp_path):
    assert [exported(ckpt) for _ in range(3)] == ["exported", "exported-2", "exported-3"]
    assert exported(ckpt, overwrite=True) == "exported"
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {EXPORT}


def interrupted(ckpt, overwrite=False):
    """Interrupt an export before it is complete; returns the name of its folder."""
    folders = []
    with suppress(KeyboardInterrupt), export_folder(ckpt, None, overwrite) as folder:
        folders.append(folder)
        (folder / "model-fp32.onnx").touch()
        raise KeyboardInterrupt
    return folders[0].name


def test_unfinished_export_is_replaced(ckpt):
    assert [interrupted(ckpt), interrupted(ckpt), exported(ckpt)] == ["exported"] * 3
    assert interrupted(ckpt) == "exported-2"
    assert interrupted(ckpt, overwrite=True) == "exported"  # the old export is now incomplete
    assert exported(ckpt) == "exported"


def test_concurrent_exports_have_different_folders(ckpt, tmp_path):
    holder = f"""
import sys
from litesort.cli.folders import export_folder
with export_folder({ckpt!r}, None, False) as folder:
    print(folder.name, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout.readline() == "exported\n"
            assert exported(ckpt) == "exported-2"
            for out, overwrite in ((str(tmp_path / "exported"), False), (None, True)):
                with pytest.raises(ModelError, match=r"out=.*exported is locked by another export: wait until"):
                    exported(ckpt, out, overwrite)
        finally:
            other.kill()
    assert exported(ckpt) == "exported"  # the system releases the locks of a killed process
    with ExitStack() as held:
        folders = [held.enter_context(export_folder(ckpt, None, False)).name for _ in range(5)]
    assert folders == [f"exported-{number}" for number in range(3, 8)]


def test_named_export_folder_is_replaced_only_with_overwrite(ckpt, tmp_path):
    out = str(tmp_path / "out")
    assert exported(ckpt, out) == "out"
    line = f"out={out} holds an export: give another out, or overwrite=true to replace it"
    with pytest.raises(ModelError) as refused:
        exported(ckpt, out)
    assert str(refused.value) == line
    assert exported(ckpt, out, overwrite=True) == "out"
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"out=.*file cannot be written: .*: give another out"):
        exported(ckpt, str(tmp_path / "file"))


def test_job_with_a_numbered_export_folder_is_finished(tmp_path):
    (tmp_path / "metrics.json").write_text('{"status": "completed"}')
    (tmp_path / "exported").mkdir()
    cfg = OmegaConf.create({"export": {"format": "onnx"}})
    assert resume.finished_results(tmp_path, cfg) is None
    (tmp_path / "exported-2").mkdir()
    (tmp_path / "exported-2" / EXPORT).write_text("{}")
    assert resume.finished_results(tmp_path, cfg) == {"status": "completed"}


def test_used_run_folder_is_refused_before_anything_is_written(tmp_path):
    for name in ("finished", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").touch()
    (tmp_path / "finished" / "metrics.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    commands = [
        ["train.py", "hydra.run.dir=finished"],
        ["train.py", "hydra.run.dir=killed"],
        ["train.py", "hydra.run.dir=killed", "ckpt=finished/last.ckpt"],
        ["train.py", "hydra.run.dir=killed", "ckpt_init=killed/last.ckpt"],
        ["evaluate.py", "hydra.run.dir=finished", "ckpt=finished/last.ckpt"],
    ]
    for result, name in zip(run_all(commands, tmp_path), ["finished", *["killed"] * 3, "finished"], strict=True):
        found = "metrics.json" if name == "finished" else "last.ckpt"
        assert result.returncode == 2
        assert result.stderr.startswith(
            f"error: hydra.run.dir={name} holds {found} of another run: choose another folder"
        )
        assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    # a resumed run continues in the folder of its checkpoint
    refuse_used(tmp_path / "killed", str(tmp_path / "killed" / "last.ckpt"), resumes=True)
