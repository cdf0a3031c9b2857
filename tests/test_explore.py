"""The data report finds the faults of a small data set, shows them, and lists them in files that training reads."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from configs import composed
from PIL import Image

from datamodules.quality.embeddings import HistogramEmbedder
from explore import explore
from lightning_modules.backbones.embedder import default_embedder


@pytest.fixture(scope="module")
def explored(tmp_path_factory, cache_dir):
    """Results of explore.py on 19 files: one equal pair, one re-encoded pair with two labels, and one broken file."""
    root, out = tmp_path_factory.mktemp("set"), tmp_path_factory.mktemp("out")
    rng = np.random.default_rng(0)
    for name in ("bag", "can<b>"):
        (root / name).mkdir()
        for number in range(8):
            blocks = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(blocks).resize((120, 90), Image.Resampling.BICUBIC).save(root / name / f"{number}.png")
    shutil.copy(root / "bag" / "0.png", root / "bag" / "copy.png")
    with Image.open(root / "bag" / "1.png") as image:
        image.save(root / "can<b>" / "again.jpg", quality=60)
    with Image.open(root / "bag" / "2.png") as image:
        image.convert("RGBA").save(root / "bag" / "2.png")
    (root / "bag" / "bad.jpg").write_bytes(b"no")
    cfg = composed("explore", "data=folder", f"data.root={root}", f"run_dir={out}", "max_images_per_class=3")
    return explore(cfg), root, out


def test_faults_are_counted(explored):
    results, _, _ = explored
    assert {key: results[key] for key in ("broken", "equal", "near", "disagreeing")} == {
        "broken": 1, "equal": 1, "near": 1, "disagreeing": 1,
    }  # fmt: skip
    assert [sum(of.values()) for of in results["counts"].values()] == [9, 9]
    assert results["quantiles"]["width"] == [120] * 5
    assert results["quantiles"]["aspect"][0] == pytest.approx(4 / 3, abs=1e-3)


def test_images_are_decoded_only_for_duplicates_and_features(tmp_path):
    """No image is decoded at `data.size`, because explore.py trains no network."""
    overrides = ["data=synthetic", "data.source.num_images=60", f"data.cache_dir={tmp_path}", f"run_dir={tmp_path}"]
    explore(composed("explore", *overrides))
    embedder = default_embedder(tmp_path) or HistogramEmbedder()
    caches = {path.parent.name.rsplit("-", 1)[0] for path in tmp_path.glob("pixels/*/pixels.npy")}
    assert caches == {"squash-64px", f"{embedder.resize}-{embedder.size}px"}


def test_image_issues_are_listed(explored):
    results, _, out = explored
    assert results["image_issues"] == {"transparency": 1}
    with (out / "image_issues.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"path": "bag/2.png", "label": "bag", "issues": "transparency"}]
    assert "bag/<wbr>2.png: transparency</li>" in (out / "explore.html").read_text()


def test_classes_are_compared_by_split_and_appearance(explored):
    results, _, _ = explored
    for split, ratio in results["imbalance_of"].items():
        counts = [of[split] for of in results["counts"].values()]
        assert ratio == pytest.approx(max(counts) / min(counts))
    assert all(0 < look[key] < 255 for look in results["looks"].values() for key in ("brightness", "colour"))


def test_training_reads_the_lists(explored):
    from datamodules.sources.edited import EditConfig, apply_edits
    from datamodules.sources.folder import FolderSource

    results, root, out = explored
    with (out / "exclude.csv").open(newline="") as file:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert listed["bag/copy.png"] == "equal to bag/0.png"
    assert set(listed) == {"bag/copy.png", "bag/bad.jpg"}
    assert len(apply_edits(FolderSource(root), EditConfig(exclude=out / "exclude.csv")).samples) == 17
    with (out / "duplicates.csv").open(newline="") as file:
        pairs = {(row["path"], row["other"]) for row in csv.DictReader(file)}
    assert pairs == {("bag/0.png", "bag/copy.png"), ("bag/1.png", "can<b>/again.jpg")}
    assert json.loads((out / "explore.json").read_text())["broken"] == results["broken"]


def test_label_issues_and_leakage_are_reported(explored):
    from datamodules.sources.edited import EditConfig, apply_edits
    from datamodules.sources.folder import FolderSource

    results, root, out = explored
    assert results["features"]
    assert results["leakage"]["group_by=duplicates"]["crossing"] == 0
    assert sum(results["leakage"]["present"]["images"].values()) == 18
    with (out / "relabel.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["path"] for row in listed] == [results["images"][one["row"]]["path"] for one in results["label_issues"]]
    if listed:
        assert len(apply_edits(FolderSource(root), EditConfig(relabel=out / "relabel.csv")).samples) == 19
    assert (out / "outliers.csv").read_text().startswith("path,label,distance\n")


def test_page_is_self_contained_and_escapes_names(explored):
    page = (explored[2] / "explore.html").read_text()
    assert "can<b>" not in page
    assert "can&lt;b&gt;" in page
    assert not re.search(r"""(src|href)=['"](?!data:|#)""", page)
    assert "default-src 'none'" in page
    sections = re.findall(r'id="([\w-]+)"', page)
    assert all(link in sections for link in re.findall(r'href="#([^"]+)"', page))
    audited = len(explored[0]["label_issues"]) + len(explored[0]["outliers"])
    assert page.count("<img") == 2 * 3 + 2 * len(explored[0]["pairs"]) + audited
    assert "pair alarm" in page
    assert "bag/<wbr>bad.jpg" in page
    cards = re.findall(r'<div class="(card[^"]*)"><h2>([^<]+)', page)
    assert [title for kind, title in cards if "alarm" in kind][:2] == ["broken files", "pairs with two labels"]
    assert [kind for kind, _ in cards] == sorted((kind for kind, _ in cards), reverse=True)  # alarms first


def test_page_shows_equal_sizes_as_text(explored):
    page = (explored[2] / "explore.html").read_text()
    assert "<h2>width</h2><p>120 px in all images</p>" in page
    assert "The same in all images: width 120, height 90, width / height 1.333" in page
    assert 'aria-label="width"' not in page  # no histogram of one bar


def test_summary_recommends_group_by_only_for_similar_pixels(explored):
    from reports.dataset import findings

    results = {**explored[0], "crossing": 3, "leaked": 0.1}
    texts = {count: str(findings({**results, "crossing_by_pixels": count})) for count in (0, 2)}
    assert "keeps pairs with similar pixels in one split" in texts[2]
    assert "keeps pairs" not in texts[0]
    assert "their pixels are not" in texts[0]
