"""Content of the HTML leaderboard, for complete, damaged and malicious run folders."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reports.html import images
from reports.html.leaderboard import contents, main, write_page
from reports.html.table import heat, table
from reports.ranking import labels, rank
from reports.results import gather
from reports.run_folder import read_config, read_curves, read_mistakes, read_predictions

IMAGE_URL = "data:image/webp;base64,UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="
MARKUP = "<img src=x onerror=alert(1)>'\"&"


class Parsed(HTMLParser):
    """Elements with their attributes, and the texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def make_run(folder: Path, model="resnet18d", seed=0, f1=0.7, latency=10.0, classes=("can", "cup"), **more) -> Path:
    """Write a run folder with results, config, history, three predictions and two mistakes."""
    folder.mkdir(parents=True)
    row = {
        "status": "completed", "name": model, "model": model, "seed": seed, "origin": "hub", "classes": list(classes),
        "overrides": [f"model={model}", f"seed={seed}"], "score": 2 - f1, "test/f1_macro": f1, "latency_ms": latency,
        "params": 2_000_000, "macs": 5e8, "train_seconds": 61.0,
        **{f"test/f1/{name}": f1 + i / 10 for i, name in enumerate(classes)}, **more,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(row))
    (folder / "config.yaml").write_text(f"seed: {seed}\nrun_dir: {json.dumps(str(folder))}\nmodel: {{name: {model}}}\n")
    (folder / "history.csv").write_text("epoch,train/loss,val/f1_macro\n0,1.5,\n1,1.0,0.5\n2,0.75,0.6\n")
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "prediction", *(f"p_{name}" for name in classes)])
        one, two = classes[:2]
        writer.writerows([["a", one, one, 0.9, 0.1], ["b", one, two, 0.2, 0.8], ["c", two, two, 0.3, 0.7]])
    mistake = {"file": "b", "label": classes[0], "prediction": classes[1], "confidence": 0.8, "image": IMAGE_URL}
    (folder / "mistakes.json").write_text(json.dumps({"format": 1, "mistakes": [{**mistake, "map": IMAGE_URL}] * 2}))
    return folder


@pytest.fixture
def sweep(tmp_path):
    """Three seeds of one setting, two further runs and a failed run."""
    for i in range(3):
        make_run(tmp_path / f"{i}", "lcnet_050", seed=i, f1=0.60 + i / 100, latency=2.0)
    make_run(tmp_path / "3", "resnet50", f1=0.8, latency=40.0)
    make_run(tmp_path / "4", "slow", f1=0.5, latency=50.0)
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "metrics.json").write_text('{"status": "failed", "error": "OutOfMemory: 3 GB"}')
    (tmp_path / "5" / "error.log").write_text("Traceback\nOutOfMemory: 3 GB")
    return tmp_path


def test_page_is_self_contained_and_has_a_content_security_policy(sweep):
    path = write_page(gather(sweep), sweep / "leaderboard.html")
    text = path.read_text()
    found = Parsed(text)
    links = [value for _, attrs in found.tags for key, value in attrs.items() if key in ("src", "href")]
    files = [link for link in links if not link.startswith(("data:image/", "#"))]  # files of the runs
    assert len(links) > len(files) > 0
    assert all((sweep / link).is_file() for link in files)
    policy = next(attrs["content"] for tag, attrs in found.tags if "http-equiv" in attrs)
    assert "default-src 'none'" in policy
    assert "sha256-" in policy
    assert not re.search(r"url\(|@import|https?://", text)
    assert sum(tag == "script" and attrs.get("type") is None for tag, attrs in found.tags) == 1


def test_seeds_are_averaged_and_single_runs_have_their_own_table(sweep):
    shown = contents(gather(sweep), sweep)
    folded, every = shown["tables"]
    assert [len(entries) for _, _, entries in (folded, every)] == [4, 6]
    cells = {column.title: column.cells for column in folded[1]}
    small = [cell.text for cell in cells["model"]].index("lcnet_050")
    assert (cells["F1 test"][small].text, cells["F1 test"][small].small) == ("0.6100", "±0.0100")
    assert cells["MB"][small].text == "8"
    assert cells["weights"][small].text == "pretrained"
    assert cells["seeds"][small].text == "0 1 2"
    assert cells["F1 cup"][small].order == pytest.approx(0.71)
    assert cells["failed"][-1].text == "OutOfMemory: 3 GB"


def test_front_joins_the_points_that_no_other_dominates(sweep):
    chart = contents(gather(sweep), sweep)["pareto"]["wide"]
    best = {point["name"] for point in chart["points"] if point["best"]}
    assert best == {"lcnet_050", "resnet50"}
    first, second = (next(p for p in chart["points"] if p["name"] == name) for name in ("lcnet_050", "resnet50"))
    assert chart["line"] == f"{first['x']},{first['y']} {second['x']},{first['y']} {second['x']},{second['y']}"
    assert first["x"] < second["x"]
    assert first["y"] > second["y"]  # y points down: the higher F1 is drawn higher


def test_files_of_a_run_are_read(sweep):
    folder = sweep / "0"
    found = read_predictions(folder, ["can", "cup"])
    assert found.files == ["a", "b", "c"]
    assert (found.targets.tolist(), found.predictions.tolist()) == ([0, 0, 1], [0, 1, 1])
    assert found.confidence.tolist() == [0.9, 0.8, 0.7]
    assert read_predictions(folder, ["other"]) is None
    assert read_curves(folder) == {
        "train/loss": [(0, 1.5), (1, 1.0), (2, 0.75)], "val/f1_macro": [(1, 0.5), (2, 0.6)],
    }  # fmt: skip
    assert read_config(folder) == {"seed": "0", "model.name": "lcnet_050"}
    assert [entry["confidence"] for entry in read_mistakes(folder)] == [0.8, 0.8]


def test_differing_settings_are_shown_and_settings_that_vary_together_share_a_column(tmp_path):
    for i, (size, lr) in enumerate([(64, 0.1), (96, 0.2), (64, 0.1)]):
        folder = make_run(tmp_path / str(i), f"m{i}")
        config = (
            f"seed: {i}\nepochs: 3\nrun_dir: {folder}\ndata: {{size: {size}, dir: {folder}/x}}\noptim: {{lr: {lr}}}\n"
        )
        (folder / "config.yaml").write_text(config)
    differing = contents(gather(tmp_path), tmp_path)["settings"]
    assert differing["heads"] == [("data.size", ["optim.lr"])]
    assert [values for _, values in differing["rows"]] == [["64"], ["96"], ["64"]]


@pytest.mark.parametrize("damage", ["missing", "empty", "binary", "foreign", "list"])
def test_page_of_a_run_with_damaged_files(tmp_path, damage):
    folder = make_run(tmp_path / "run")
    content = {"empty": b"", "binary": b"\x00\xff\xfe" * 99, "foreign": b"a: [b\n1,2,3\n", "list": b"[1, 2]"}
    for name in ("history.csv", "predictions.csv", "mistakes.json", "config.yaml"):
        if damage == "missing":
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content[damage])
    text = write_page(gather(tmp_path), tmp_path / "page.html").read_text()
    assert "resnet18d" in text
    assert "<img" not in text


def test_mistakes_with_other_urls_are_left_out(tmp_path):
    folder = make_run(tmp_path / "run")
    entry = {"file": "a", "image": "https://elsewhere/x.png", "map": None}
    script = {"file": "a", "image": "data:image/svg+xml;base64,AAAA"}
    (folder / "mistakes.json").write_text(json.dumps({"mistakes": [entry, script]}))
    assert read_mistakes(folder) == []


def test_markup_in_any_value_is_shown_as_text(tmp_path):
    folder = make_run(
        tmp_path / f"run {MARKUP.replace('/', '')}", MARKUP, classes=(MARKUP, "</script>"), origin=MARKUP,
        error=MARKUP, overrides=[f"model={MARKUP}", f"a={MARKUP}"],
    )  # fmt: skip
    (folder / "config.yaml").write_text(f"a: {json.dumps(MARKUP)}")
    make_run(tmp_path / "other\udcff", "fine")
    path = write_page(gather(tmp_path), tmp_path / "page.html", title=MARKUP)
    found = Parsed(path.read_text())
    assert [attrs["src"][:11] for tag, attrs in found.tags if tag == "img" and "src" in attrs] == ["data:image/"] * 4
    assert not any(key.startswith("on") for _, attrs in found.tags for key in attrs)
    assert sum(tag == "script" for tag, _ in found.tags) == 3  # the script, and the data of images and predictions
    assert MARKUP in "".join(found.text)


def test_images_are_limited_and_the_first_of_every_run_comes_first(monkeypatch):
    monkeypatch.setattr(images, "IMAGE_BYTES", 9)
    runs = [{"mistakes": [{"image": f"{run}{i}", "map": "m"} for i in range(3)]} for run in "abc"]
    runs.append({"mistakes": [{"image": "a0", "map": None}]})  # stored already
    pool = images.pool_images(runs)
    assert pool == ["a0", "b0", "c0"]
    assert [[one["image"] for one in run["mistakes"]] for run in runs] == [[0], [1], [2], [0]]
    assert [run["all_mistakes"] for run in runs] == [3, 3, 3, 1]


def test_results_come_before_settings_and_classes(tmp_path):
    more = {"val/score": 1.3, "val/f1_macro": 0.75, "test/f1_macro_low": 0.6, "test/f1_macro_high": 0.8, "ratio": 0.25}
    for i in range(2):
        make_run(tmp_path / str(i), overrides=[f"data.size={i}"], unsteady=bool(i), **more)
    shown = contents(gather(tmp_path), tmp_path)
    columns = {column.title: column for column in shown["tables"][-1][1]}
    first = ["#", "model", "score", "F1 val", "F1 test", "× faster", "ms", "MB", "setting"]
    assert list(columns)[: len(first)] == first
    assert columns["F1 test"].cells[0].small == "0.6000 to 0.8000"
    assert columns["× faster"].cells[0].text == "4"
    assert [cell.text for cell in columns["ms"].cells] == ["10.00", "10.00 ~"]


def test_conditions_of_the_measurement_are_named(tmp_path):
    machine = {"cpu": "A chip", "cores": 4}
    make_run(tmp_path / "run", machine=machine, threads=1, reference="resnet18d 224 px", images=30, split="test")
    assert contents(gather(tmp_path), tmp_path)["conditions"] == [
        ("machine", "A chip, 4 cores"), ("threads", "1"), ("times relative to", "resnet18d 224 px"),
        ("tested on", "test split (30 images)"), ("ranked by", "score"),
    ]  # fmt: skip


def test_exported_files_do_not_change_the_style_of_curves(sweep):
    looks = {run["folder"]: run["look"] for run in contents(gather(sweep), sweep)["runs"] if run["curves"]}
    for i in range(5):
        rows = [
            {"status": "completed", "file": f"{f}.onnx", "f1_macro": 0.99, "latency_ms": 1, "score": 0.1} for f in "ab"
        ]
        (sweep / str(i) / "exported").mkdir()
        (sweep / str(i) / "exported" / "export.json").write_text(json.dumps({"rows": rows}))
    runs = contents(gather(sweep), sweep)["runs"]
    assert len(runs) == 16
    assert {run["folder"]: run["look"] for run in runs if run["curves"]} == looks
    assert len({run["name"] for run in runs}) == 16


def test_search_has_an_axis_per_setting_and_importances(tmp_path):
    for i, (lr, model) in enumerate([(0.1, "a"), (0.01, "b"), (0.2, "a")]):
        make_run(tmp_path / str(i), model, f1=0.5 + i / 10, overrides=[f"lr={lr}", f"model={model}", "epochs=3"])
    (tmp_path / "search.json").write_text('{"importances": {"test/f1_macro": {"lr": 0.2, "model": 0.8}}}')
    shown = contents(gather(tmp_path), tmp_path)
    assert [axis["title"] for axis in shown["parallel"]["axes"]] == ["lr", "model", "ms", "macro F1"]
    best = max(shown["parallel"]["lines"], key=lambda line: line["shade"])
    assert best["name"] == "a lr=0.2"
    assert shown["importances"] == [("test/f1_macro", [("model", 0.8), ("lr", 0.2)])]
    assert contents(gather(tmp_path / "0"), tmp_path / "0")["parallel"] is None


VALUE = st.one_of(st.none(), st.floats(), st.integers(), st.text(max_size=4), st.lists(st.integers(), max_size=2))
KEYS = ("rank", "name", "model", "score", "test/f1_macro", "test/f1/a", "latency_ms", "seed", "overrides", "format",
        "precision", "bytes", "origin", "train_seconds", "classes", "error", "folder")  # fmt: skip
ROW = st.fixed_dictionaries({"status": st.just("completed")}, optional=dict.fromkeys(KEYS, VALUE))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROW, max_size=4))
def test_contents_accepts_any_flat_rows(rows):
    folders = [{**row, "folder": str(row.get("folder") or "").replace("\0", "")} for row in rows]
    ranked = rank(folders)
    assert len(labels(ranked)) == len(rows)
    assert all(len(column.cells) == len(rows) for column in table(ranked))
    shown = contents(folders, Path("/nonexistent"))
    assert len(shown["runs"]) == len(rows)
    assert all(0 <= cell[1] <= 1 for row in heat(ranked, ["a"]) for cell in row if cell)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROW, max_size=4))
def test_page_of_any_flat_rows_is_written(tmp_path_factory, rows):
    folders = [{**row, "folder": str(row.get("folder") or "").replace("\0", "")} for row in rows]
    page = write_page(folders, tmp_path_factory.getbasetemp() / "rows.html", Path("/nonexistent"))
    assert page.read_text().rstrip().endswith("</html>")


def test_exported_file_has_format_and_precision():
    row = {"status": "completed", "model": "resnet18", "format": "onnx", "precision": "int8", "bytes": 3_100_000}
    columns = {column.title: column.cells[0].text for column in table(rank([row]))}
    assert table(rank([row]))[1].cells[0].small == "onnx int8"
    assert columns["MB"] == "3.1"
    assert "ms" not in columns


def test_command_writes_a_page_of_several_folders(sweep, tmp_path_factory):
    other = make_run(tmp_path_factory.mktemp("other") / "run", "convnext_atto").parent
    out = other / "page.html"
    command = [sys.executable, "-m", "reports.html.leaderboard", str(sweep), str(other), "--out", str(out)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    text = out.read_text()
    assert "convnext_atto" in text
    assert "lcnet_050" in text
    assert text.count("<img") == 3 * 2 * 6  # of six finished runs two mistakes, each with and without a map
    assert main([str(sweep / "nowhere")]) == 2
