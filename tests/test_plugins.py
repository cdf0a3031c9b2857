"""User-defined parts: each is a module on PYTHONPATH and a YAML file or an override, without changes to litesort."""

import json
import os
import subprocess
from pathlib import Path

import entry_points
import pytest
import torch
from configs import QUICK_LATENCY, QUIET_CPU
from tiny_training import history_rows

pytest.importorskip("onnxruntime", reason="the export extra is not installed")

ROOT = Path(__file__).parents[1]
QUICK = (*QUICK_LATENCY, "mistakes=0")
TRAINING = (*QUICK, *QUIET_CPU, "data.size=32", "data.batch_size=8", "epochs=1", "trainer.log_every_n_steps=1")

MODULES = {
    "my_network": """
import timm
from timm.models import register_model
from torch import nn

from lightning_modules.backbones import create_backbone


class Small(nn.Module):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, 3, stride=4), nn.Linear(width, num_classes)

    def get_classifier(self):
        return self.fc

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))


@register_model
def my_small(pretrained=False, num_classes=1000, width=8, **kwargs):
    return Small(num_classes, width)


def build(name, num_classes, width):
    return create_backbone(name, num_classes, pretrained=False, kwargs={"width": width})
""",
    "my_source": """
from pathlib import Path

from datamodules.sources.base import Sample, Source


class FlatSource(Source):
    \"\"\"Images `<class>_<name>.jpg` in one folder.\"\"\"

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        names = sorted(path.name for path in self.root.glob("*.jpg"))
        self.classes = sorted({name.partition("_")[0] for name in names})
        self.samples = [Sample(name, self.classes.index(name.partition("_")[0])) for name in names]
""",
    "my_augment": """
import numpy as np
import torch
from torch import nn


class Darken(nn.Module):
    \"\"\"Multiply each image by a factor that depends on its key.\"\"\"

    rows = 0

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def draw(self, keys, size):
        Darken.rows += len(keys)
        uniform = (keys % np.uint64(1000)).astype(np.float32) / 1000
        return torch.from_numpy(self.least + (1 - self.least) * uniform)

    def forward(self, pixels, draws):
        return pixels.float() / 255 * draws.view(-1, 1, 1, 1)

    def mix(self, images, targets, num_classes, draws):
        return images, targets
""",
    "my_objective": """
import torch

from lightning_modules.objectives.base import Objective


class Brier(Objective):
    \"\"\"Squared error of the probabilities; also reports a metric of its own.\"\"\"

    def loss(self, logits, targets):
        return (logits.softmax(1) - targets).square().sum(1).mean()

    def compute(self):
        return {"my_metric": torch.tensor(0.25)}


class BrierDistillation(Brier):
    \"\"\"Brier score of the targets, and of the teacher's probabilities with class weights.\"\"\"

    def __init__(self, teacher, class_counts, weight: float) -> None:
        super().__init__()
        self.teachers = [teacher]  # in a list, so that the state does not include it
        self.weight = weight
        self.register_buffer("class_weights", 1 / torch.tensor(class_counts).float(), persistent=False)

    def forward(self, output, targets, images=None):
        expected = self.teachers[0](images).softmax(1)
        agreement = ((output.softmax(1) - expected).square() * self.class_weights).sum(1).mean()
        return {"loss": super().forward(output, targets)["loss"] + self.weight * agreement, "agreement": agreement}
""",
    "my_callback": """
import json
from pathlib import Path

import pytorch_lightning as pl


class RecordParts(pl.Callback):
    \"\"\"Write the class names of the parts of a run to a file.\"\"\"

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer, module):
        import sys

        data = trainer.datamodule
        augment = sys.modules.get("my_augment")
        parts = {"network": type(module.net.net).__name__, "objective": type(module.objective).__name__,
                 "source": type(data.source).__name__, "augment": type(data.augment).__name__,
                 "rows": augment.Darken.rows if augment else 0,
                 "logger": [type(logger).__name__ for logger in trainer.loggers]}
        (self.folder / "parts.json").write_text(json.dumps(parts))
""",
    "my_logger": """
import json
from pathlib import Path

from pytorch_lightning.loggers.logger import Logger


class Lines(Logger):
    \"\"\"Write one JSON line per call.\"\"\"

    name, version = "lines", 0

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\\n")
""",
    "my_format": """
from deployment.formats.onnx import OnnxFormat


class Signed(OnnxFormat):
    \"\"\"ONNX with another name and suffix.\"\"\"

    name, suffix, precisions = "signed", ".signed", ("fp32",)
""",
}
FILES = {
    "model/mine.yaml": "_target_: my_network.build\nname: my_small\nwidth: 8\n",
    "data/mine.yaml": """
defaults: [_base, _self_]
source:
  _target_: my_source.FlatSource
  root: ${data.root}
""",
    "augment/mine.yaml": "_target_: my_augment.Darken\nleast: 0.5\n",
    "objective/mine.yaml": "_target_: my_objective.Brier\n",
    "objective/distilled.yaml": """
_target_: my_objective.BrierDistillation
weight: 0.5
teacher:
  _target_: lightning_modules.objectives.load_teacher
  paths: ${teacher}
""",
    "callbacks/mine.yaml": "record:\n  _target_: my_callback.RecordParts\n  folder: ${run_dir}\n",
    "logger/mine.yaml": "lines:\n  _target_: my_logger.Lines\n  file: ${run_dir}/lines.jsonl\n",
    "export/mine.yaml": """
defaults: [_base, _self_]
format: [signed]
precision: [fp32]
formats:
  signed:
    _target_: my_format.Signed
""",
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """A user's folder: modules, a `conf` folder of YAML, and images in a layout that only its source reads."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    for name, text in FILES.items():
        (folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "conf" / name).write_text(text)
    (folder / "flat").mkdir()
    for file in image_folder.rglob("*.jpg"):
        (folder / "flat" / f"{file.parent.name}_{file.name}").write_bytes(file.read_bytes())
    return folder


def run(own: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run an entry point with the user's modules on PYTHONPATH."""
    return entry_points.run(script, *arguments, cwd=own, env={**os.environ, "PYTHONPATH": str(own)})


@pytest.fixture(scope="module")
def trained(own: Path, checkpoint: Path) -> tuple[Path, Path]:
    """Folders of two runs of one sweep in which all parts are user-defined; the runs differ in the objective."""
    done = run(
        own, "train.py", "-m", *TRAINING, f"hydra.searchpath=[file://{own / 'conf'}]", "model=mine", "data=mine",
        f"data.root={own / 'flat'}", "augment=mine", "objective=mine,distilled", f"teacher={checkpoint}",
        "callbacks=[default,mine]", "logger=[mine]", "export=mine", f"hydra.sweep.dir={own / 'sweep'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain, distilled = sorted((own / "sweep").glob("[01]-*"))
    return plain, distilled


def test_own_backbone_source_augmentation_callback_and_logger_are_used(trained):
    for folder, objective in zip(trained, ("Brier", "BrierDistillation"), strict=True):
        parts = json.loads((folder / "parts.json").read_text())
        assert parts.pop("rows") > 0
        assert parts == {
            "network": "Small", "objective": objective, "source": "FlatSource", "augment": "Darken",
            "logger": ["Lines"],
        }  # fmt: skip


def test_own_logger_gets_the_metrics_of_litesort_and_of_the_objective(trained):
    lines = [json.loads(line) for line in (trained[0] / "lines.jsonl").read_text().splitlines()]
    logged = set().union(*lines)
    assert {"train/loss_step", "train/loss", "val/f1_macro", "val/my_metric"} <= logged
    assert [float(row["val/my_metric"]) for row in history_rows(trained[0])] == [0.25]


def test_own_objective_gets_class_counts_and_teacher(trained):
    lines = [json.loads(line) for line in (trained[1] / "lines.jsonl").read_text().splitlines()]
    agreement = [line["train/agreement"] for line in lines if "train/agreement" in line]
    assert len(agreement) == 1
    assert agreement[0] > 0
    state = torch.load(trained[1] / "best.ckpt", weights_only=True)["state_dict"]
    assert all(key.startswith("net.") for key in state)


def test_own_format_is_exported_when_the_run_ends(trained):
    report = json.loads(next(trained[0].rglob("export.json")).read_text())
    (row,) = report["rows"][1:]
    assert (row["file"], row["status"]) == ("model-fp32.signed", "completed")
    assert Path(row["path"]).is_file()


def test_checkpoint_of_own_parts_is_evaluated_in_another_process(own, trained):
    out = own / "evaluated"
    done = run(
        own, "evaluate.py", *QUICK, f"ckpt={trained[0] / 'best.ckpt'}", "imports=[my_network]", f"hydra.run.dir={out}",
        f"hydra.searchpath=[file://{own / 'conf'}]", "data=mine", f"data.root={own / 'flat'}", "split=test",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = (json.loads((folder / "metrics.json").read_text()) for folder in (trained[0], out))
    assert after["model"] == "my_small"
    assert after["test/f1_macro"] == pytest.approx(before["test/f1_macro"], abs=1e-6)


def test_run_of_own_parts_resumes(own, trained):
    done = run(
        own, "train.py", f"ckpt={trained[0] / 'last.ckpt'}", "epochs=2", "imports=[my_network]",
        f"hydra.searchpath=[file://{own / 'conf'}]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in history_rows(trained[0])] == ["0", "1"]


def test_imports_of_a_checkpoint_are_not_imported(own, trained):
    stored = torch.load(trained[0] / "last.ckpt", weights_only=True)
    stored["litesort"]["config"]["imports"] = ["my_module"]
    (own / "my_module.py").write_text(f"open({str(own / 'imported')!r}, 'w')")
    (own / "other").mkdir()
    torch.save(stored, own / "other" / "last.ckpt")
    done = run(own, "train.py", f"ckpt={own / 'other' / 'last.ckpt'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert not (own / "imported").exists()


def test_imports_of_a_missing_module_is_an_error(own, checkpoint):
    done = run(own, "evaluate.py", f"ckpt={checkpoint}", "imports=[my_netwrk]")
    assert done.returncode == 2
    expected = "error: imports=my_netwrk is invalid: No module named 'my_netwrk': add its folder to PYTHONPATH"
    assert done.stderr.splitlines() == [expected]
