"""Configs stored in files: plain references are resolved; they read no variable, run no code and open no address."""

import copy
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from configs import QUIET_CPU, composed
from omegaconf import OmegaConf

from datamodules.cache import default_cache_dir
from lightning_modules.checkpoint import MODEL_CARD, read_checkpoint
from litesort.cli import compose as configs
from litesort.cli.build import load_data, resumed_config
from litesort.cli.stored_config import check_run, resolve, stored_data, stored_data_builder
from litesort.errors import ModelError, UserError

SECRET = "hf_secret123"


@pytest.fixture
def request_log(monkeypatch) -> Iterator[tuple[str, list[str]]]:
    """Address of a server and the requests that it received; an environment variable holds a secret."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_POST = do_PUT = do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("FAKE_TOKEN", SECRET)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


@pytest.fixture
def card(checkpoint) -> dict:
    return copy.deepcopy(read_checkpoint(checkpoint)[MODEL_CARD])


def everything_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# References


def test_plain_references_are_resolved():
    config = {
        "a": {"b": [1, {"c": "x"}], "link": "${d}"}, "d": {"e": None, "f": "${a.b.1.c}"}, "whole": "${a.b}",
        "text": "${d.f}-${a.b.0}/y", "through": "${a.link.f}", "none": "${d.e}", "plain": "$x {y}", 3: 4,
    }  # fmt: skip
    filled = resolve(config)
    assert filled == OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    assert (filled["whole"], filled["text"], filled["through"]) == ([1, {"c": "x"}], "x-1/y", "x")


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:FAKE_TOKEN}", "${oc.env:FAKE_TOKEN,none}", "x${oc.env:FAKE_TOKEN}", "${hydra:runtime.cwd}",
        "${slug:x}", "${oc.decode:'{a: 1}'}", "${.b}", "${..a}", "${${b}}", "${ b }", "${b", "${a[0]}", "\\${b}",
        "${dollar}${braced}", "${dollar}{oc.env:FAKE_TOKEN}", "${gone}", "${self}", "${one}", "${b.c}", "x${a}",
    ],
)  # fmt: skip
def test_every_other_reference_is_refused_in_one_line(text, monkeypatch):
    monkeypatch.setenv("FAKE_TOKEN", SECRET)
    config = {
        "a": [1], "b": 2, "dollar": "$", "braced": "{oc.env:FAKE_TOKEN}", "self": "${self}", "one": "${two}",
        "two": "${one}", "value": text,
    }  # fmt: skip
    with pytest.raises(ModelError, match="it is refused") as caught:
        resolve(config, config["value"])
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_references_that_multiply_are_refused():
    config = {"a0": [1]} | {f"a{n}": [f"${{a{n - 1}}}"] * 10 for n in range(1, 30)}
    with pytest.raises(ModelError, match="too many values"):
        resolve(config)


def test_stored_config_has_plain_references_only(monkeypatch):
    monkeypatch.setenv("LITESORT_TRIAL", '{"number": 3}')
    cfg = composed("train", "data=folder", "data.root=photos", "run_dir=here", "logger=[csv,mlflow]")
    OmegaConf.update(cfg, "notes", "${oc.env:LITESORT_TRIAL}", force_add=True)
    OmegaConf.update(cfg, "tags", ["${slug:a b}", "${name}"], force_add=True)
    stored = configs.portable(cfg)
    assert stored["data"]["source"]["root"] == "${data.root}"
    assert stored["data"]["sampler"] == "${sampler}"
    assert stored["callbacks"]["optuna_pruning"]["trial"] == stored["notes"] == '{"number": 3}'
    assert stored["tags"] == ["a_b", "${name}"]
    assert resolve(stored) == configs.plain(cfg) | {"run_dir": "here"}


# Evaluation


def harmful(address: str, folder: Path) -> dict[str, tuple[str, object]]:
    """Name -> (key, value) that an attacker writes into a file's config or model card."""
    trashnet = {"_target_": "datamodules.sources.TrashnetSource", "root": None}
    write = {
        "_target_": "litesort.io.write_text", "path": {"_target_": "pathlib.Path", "_args_": [f"{folder}/harm"]},
        "text": "x",
    }  # fmt: skip
    stolen = f"{address}/steal?t=${{oc.env:FAKE_TOKEN}}"
    return {
        "token to an address": ("config.data.source", {**trashnet, "cache_dir": f"{folder}/harm", "url": stolen}),
        "an address": ("config.data.source", {**trashnet, "cache_dir": f"{folder}/harm", "url": address}),
        "an address by reference": (
            "config.data.source", {**trashnet, "cache_dir": "${notes}", "url": "${name}"},
        ),
        "annotations from an address": (
            "config.data.source",
            {"_target_": "datamodules.sources.TacoSource", "file": None, "root": None, "url": address,
             "cache_dir": f"{folder}/harm"},
        ),
        "images at an address": ("config.data.root", address),
        "images at a share": ("config.data.root", r"\\127.0.0.1\share"),
        "token in a folder": ("config.data.root", f"{folder}/${{oc.env:FAKE_TOKEN}}"),
        "token in the name": ("config.name", "${oc.env:FAKE_TOKEN}"),
        "function as a source": ("config.data.source", write),
        "function in a setting": ("config.data.class_fraction", write),
        "function in an argument": ("config.data.source.root", write),
        "function as data": ("config.data", write),
        "function in a class name": ("classes.0", write),
        "function as size": ("preprocessing.size", write),
        "function as resize": ("preprocessing.resize", write),
        "function in the network": ("model.kwargs", {"act_layer": write}),
        "another module's class": ("config.data.source", {"_target_": "datamodules.images.Path"}),
        "a class that is no source": ("config.data.source", {"_target_": "datamodules.ShuffleSampler"}),
        "a module to import": ("config.data.source", {"_target_": "antigravity.x.Y"}),
        "a target as a mapping": ("config.data.source", {"_target_": {"_target_": "os.system"}}),
        "more arguments": ("config.data.source._args_", ["x"]),
        "an unknown argument": ("config.data.hostname", "x"),
        "escaped": ("config.data.root", "\\${oc.env:FAKE_TOKEN}"),
        "no data": ("config.data", {}),
    }  # fmt: skip


def put(values, key: str, value) -> None:
    *parents, last = key.split(".")
    for name in parents:
        values = values[int(name) if isinstance(values, list) else name]
    values[int(last) if isinstance(values, list) else last] = value


@pytest.mark.parametrize("what", list(harmful("", Path())))
def test_an_evaluation_runs_nothing_that_a_file_names(what, checkpoint, request_log, tmp_path, monkeypatch):
    address, requests = request_log
    monkeypatch.chdir(tmp_path)
    content = torch.load(checkpoint, weights_only=True)
    content[MODEL_CARD]["config"] |= {"name": address, "notes": f"{tmp_path}/harm"}
    put(content[MODEL_CARD], *harmful(address, tmp_path)[what])
    torch.save(content, tmp_path / "best.ckpt")
    before, cached = everything_below(tmp_path), everything_below(default_cache_dir())
    cfg = composed("evaluate", f"ckpt={tmp_path / 'best.ckpt'}", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError) as caught:
        load_data(read_checkpoint(cfg.ckpt)[MODEL_CARD], cfg)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert not requests
    assert everything_below(tmp_path) == before
    assert not any("trashnet" in str(path) for path in everything_below(default_cache_dir()) - cached)


def test_valid_checkpoint_loads_its_data(card, image_folder, tmp_path):
    cfg = composed("evaluate", f"run_dir={tmp_path}")
    data, split, run_info = load_data(card, cfg)
    assert (data.classes, data.size, data.resize, split) == (["bag", "can", "cup"], 32, "pad", "test")
    assert run_info == {"name": "resnet10t", "data": f"folder {image_folder}"}
    assert data.batch_size == 8


def test_the_command_line_overrides_the_stored_data(card, image_folder, tmp_path):
    card["config"]["data"]["source"]["root"] = "/gone"  # a value, not a reference to data.root
    overrides = (f"data.root={image_folder}", f"data.cache_dir={tmp_path / 'cache'}", "data.eval_batch_size=5")
    data, split, _ = load_data(card, composed("evaluate", f"run_dir={tmp_path}", *overrides))
    assert (str(data.source.root), data.eval_batch_size, split) == (str(image_folder), 5, "all")
    assert (tmp_path / "cache").is_dir()
    with pytest.raises(ModelError, match=r"data\.num_workers=many is invalid"):
        load_data(card, composed("evaluate", f"run_dir={tmp_path}", "data.num_workers=many"))


def test_command_line_may_use_variables_and_unusual_names(card, image_folder, tmp_path, monkeypatch):
    unusual = tmp_path / "${x}"
    unusual.symlink_to(image_folder)
    monkeypatch.setenv("MY_PHOTOS", str(image_folder))
    for overrides in ("data.root='${oc.env:MY_PHOTOS}'", f"data.root='{tmp_path}/\\${{x}}'"):
        data, _, run_info = load_data(card, composed("evaluate", f"run_dir={tmp_path}", overrides))
        assert len(data.samples) == 60
        assert run_info["data"] in (f"folder {image_folder}", f"folder {unusual}")


def test_folders_and_addresses_of_the_file_are_not_used(card):
    card["config"]["data"] |= {"cache_dir": "/elsewhere", "quarantine_dir": "/elsewhere"}
    card["config"]["data"]["source"] = {
        "_target_": "datamodules.sources.TrashnetSource", "root": None, "cache_dir": "/elsewhere",
        "url": "http://x", "timeout": 3,
    }  # fmt: skip
    settings = stored_data(card["config"], {})
    assert (settings["cache_dir"], settings["quarantine_dir"]) == (None, None)
    assert (settings["source"]["cache_dir"], settings["source"]["url"]) == (None, None)
    data = stored_data_builder(settings)(classes=["cardboard", "glass", "metal", "paper", "plastic", "trash"])
    assert data.source.home == default_cache_dir() / "trashnet"


def test_download_needs_data_on_the_command_line(card, tmp_path, request_log):
    address, requests = request_log
    for source, kind in (("trashnet.TrashnetSource", "trashnet"), ("taco.TacoSource", "taco")):
        card["config"]["data"]["source"] = {
            "_target_": f"datamodules.sources.{source}", "root": None, "cache_dir": None, "url": address,
        } | ({"file": None} if kind == "taco" else {})  # fmt: skip
        cfg = composed("evaluate", f"run_dir={tmp_path}", f"data.cache_dir={tmp_path / 'cache'}")
        card["classes"] = ["cardboard", "glass", "metal", "paper", "plastic", "trash"]
        with pytest.raises(UserError, match=f"is not in the cache.*: add data={kind}"):
            load_data(card, cfg)
    assert not requests


# Resumed runs


def stored_with(checkpoint: Path, folder: Path, changes: dict[str, object]) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    for key, value in changes.items():
        put(content[MODEL_CARD]["config"], key, value)
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def resumed(start: str, path: Path, folder: Path, *overrides: str):
    overrides = (f"{start}={path}", *overrides)
    return resumed_config(composed("train", *QUIET_CPU, f"run_dir={folder / 'run'}", *overrides), list(overrides))


@pytest.mark.parametrize("start", ["ckpt", "ckpt_init"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.root", "${oc.env:FAKE_TOKEN}"),
        ("seed", "${oc.env:FAKE_TOKEN}"),
        ("data.root", "http://127.0.0.1/photos"),
        ("data.size", {"_target_": "os.system", "command": "touch harm"}),
        ("data.source._args_", ["x"]),
        (
            "data.source._target_",
            "lightning_modules.backbones.backbone.create_backbone",
        ),  # conf/ names it, but not for data
        ("data.class_fraction", "${model}"),
        ("model.name", "${oc.env:FAKE_TOKEN}"),
    ],
)
def test_resumed_run_reads_no_variable_and_builds_no_other_class(start, key, value, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TOKEN", SECRET)
    monkeypatch.chdir(tmp_path)
    path = stored_with(checkpoint, tmp_path, {key: value})
    with pytest.raises(ModelError) as caught:
        resumed(start, path, tmp_path)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logger.csv.name": "/tmp/elsewhere"}, "logger.name is a path"),
        ({"logger.csv.name": "${notes}", "notes": "../../elsewhere"}, "logger.name is a path"),
        ({"logger": "${tags.0}", "tags": [{"csv": {"_target_": "pytorch_lightning.loggers.CSVLogger",
          "save_dir": "x", "name": "/tmp/x"}}]}, "its tags would run"),
        ({"export": {"_target_": "export.export_later", "name": "../x"}}, "export.name is a path"),
        ({"callbacks.harm": "${logger.csv}"}, "its callbacks would run"),
        ({"trainer.plugins": ["${model}"]}, "its trainer would run"),
        ({"callbacks.optuna_pruning.trial": {"_target_": "os.system"}}, "its callbacks would run"),
    ],
)  # fmt: skip
def test_resumed_run_builds_allowed_parts_only(changes, message, checkpoint, tmp_path):
    path = stored_with(checkpoint, tmp_path, changes)
    with pytest.raises(ModelError, match=message):
        resumed("ckpt", path, tmp_path)


def test_resumed_run_uses_addresses_and_folders_of_this_machine(checkpoint, tmp_path):
    mlflow = {
        "_target_": "pytorch_lightning.loggers.MLFlowLogger", "experiment_name": "mine", "tracking_uri": "http://x",
        "artifact_location": "/x",
    }  # fmt: skip
    trial = '{"storage": "mysql://other/db", "name": "x", "number": 0}'
    changes = {
        "run_dir": "/x", "trainer.default_root_dir": "/x", "callbacks.checkpoint.dirpath": "/x",
        "callbacks.history.folder": "/x", "logger.csv.save_dir": "/x", "logger.mlflow": mlflow,
        "logger.wandb": {"_target_": "loggers.Wandb", "save_dir": "/x", "entity": "other"},
        "callbacks.optuna_pruning.trial": trial, "data.cache_dir": "/x", "data.quarantine_dir": "/x",
    }  # fmt: skip
    path = stored_with(checkpoint, tmp_path, changes)
    cfg = configs.plain(resumed("ckpt", path, tmp_path, f"data.cache_dir={tmp_path / 'mine'}"))
    run = str(tmp_path / "run")
    assert cfg["run_dir"] == cfg["trainer"]["default_root_dir"] == cfg["callbacks"]["checkpoint"]["dirpath"] == run
    assert cfg["callbacks"]["history"]["folder"] == cfg["logger"]["csv"]["save_dir"] == run
    assert cfg["logger"]["wandb"] == {"_target_": "loggers.Wandb", "save_dir": run, "entity": None}
    assert cfg["logger"]["mlflow"]["tracking_uri"] == f"sqlite:///{run}/mlflow.db"
    assert cfg["logger"]["mlflow"]["artifact_location"] == f"{run}/mlflow"
    assert cfg["logger"]["mlflow"]["experiment_name"] == "mine"
    assert cfg["callbacks"]["optuna_pruning"]["trial"] is None
    assert (cfg["data"]["cache_dir"], cfg["data"]["quarantine_dir"]) == (str(tmp_path / "mine"), None)


def test_a_resumed_run_downloads_only_what_the_command_line_names(checkpoint, tmp_path):
    trashnet = {
        "_target_": "datamodules.sources.TrashnetSource", "root": "${data.root}", "url": "http://x",
        "cache_dir": "${data.cache_dir}",
    }  # fmt: skip
    path = stored_with(checkpoint, tmp_path, {"data.source": trashnet, "data.root": None})
    assert resumed("ckpt", path, tmp_path).data.source.url is None
    assert resumed("ckpt_init", path, tmp_path).data.source.url is None
    assert resumed("ckpt", path, tmp_path, "data=trashnet").data.source.url.startswith("https://github.com/garythung/")
    with pytest.raises(ModelError, match="data=folder cannot change in a resumed run"):
        resumed("ckpt", path, tmp_path, "data=folder")


def test_references_survive_two_resumes(checkpoint, tmp_path, image_folder):
    """In the third run, references still get the values that the first run stored."""
    path = stored_with(checkpoint, tmp_path, {})
    first = resumed("ckpt", path, tmp_path, "epochs=5")
    assert first.trainer.max_epochs == 5
    content = torch.load(path, weights_only=True)
    content[MODEL_CARD]["config"] = configs.portable(first)
    torch.save(content, path)
    second = resumed("ckpt", path, tmp_path, "epochs=7", "data.root=elsewhere", "logger=[csv,tensorboard]")
    assert (second.trainer.max_epochs, second.data.source.root) == (7, "elsewhere")
    assert set(second.logger) == {"csv", "tensorboard"}


@pytest.mark.parametrize(
    ("part", "target", "allowed"),
    [
        ("augment", "kornia.augmentation.RandomGaussianBlur", True),
        ("augment", "kornia.augmentation.auto.TrivialAugment", True),
        ("augment", "kornia.augmentation.RandomDissolving", False),
        ("augment", "kornia.augmentation.RandomGaussianBlur.__init__", False),
        ("augment", "kornia.io.load_image", False),
        ("objective", "kornia.augmentation.RandomGaussianBlur", False),
    ],
)
def test_a_resumed_run_may_build_augmentations_of_kornia(part, target, allowed):
    node = {"_target_": target, "p": 0.1}
    values = {part: {"transforms": {"one": node}} if part == "augment" else node}
    if allowed:
        assert check_run(values, {}, [part]) == values
    else:
        with pytest.raises(ModelError, match="would run"):
            check_run(values, {}, [part])
