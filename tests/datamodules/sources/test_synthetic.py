"""Synthetic images: number, size and class shares follow the settings, and pixels alone do not reveal the class."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from datamodules.sources.synthetic import objects
from datamodules.sources.synthetic.scene import LARGEST, NARROWEST, SMALLEST, WIDEST, image_size
from datamodules.sources.synthetic.source import PUBLISHED_COUNTS, SyntheticSource, class_counts
from litesort.errors import DataError


def drawn(label, *seed):
    return objects.draw(label, np.random.default_rng([label, *seed]))


def test_images_are_drawn_once_into_class_folders(tmp_path):
    source = SyntheticSource(num_images=24, cache_dir=tmp_path)
    assert source.classes == ["Metal", "Paper", "Paperpack", "Plastic", "Plasticbag", "Styrofoam"]
    assert source.samples[0].path == "Metal/00001.jpg"
    source.prepare()
    files = sorted(file.relative_to(source.root).as_posix() for file in source.root.rglob("*.jpg"))
    assert files == sorted(sample.path for sample in source.samples)
    assert [entry.name for entry in source.root.parent.iterdir() if entry.is_dir()] == [source.root.name]
    before = source.file(0).stat().st_mtime_ns
    again = SyntheticSource(num_images=24, cache_dir=tmp_path)
    again.prepare()
    assert again.file(0).stat().st_mtime_ns == before
    assert source.read(3).dtype == np.uint8


def test_seed_and_number_of_images_have_separate_folders(tmp_path):
    roots = {SyntheticSource(n, seed, tmp_path).root for n, seed in ((18, 0), (18, 1), (19, 0))}
    assert len(roots) == 3


def test_synthetic_restarts_after_a_killed_process(tmp_path):
    source = SyntheticSource(num_images=18, cache_dir=tmp_path)
    leftover = source.root.with_name(f".{source.root.name}.999999")
    leftover.mkdir(parents=True)
    source.prepare()
    assert not leftover.exists()
    assert len(list(source.root.rglob("*.jpg"))) == 18


def test_image_does_not_depend_on_the_process_that_draws_it(tmp_path):
    source = SyntheticSource(num_images=160, cache_dir=tmp_path)
    source.prepare()
    tasks = [(0, 0, 2, str(tmp_path / "one.jpg"))]
    objects.write(tasks)
    assert source.file(1).read_bytes() == (tmp_path / "one.jpg").read_bytes()


def test_an_image_depends_on_its_seed_alone():
    assert drawn(2, 5) == drawn(2, 5)
    assert drawn(2, 5) != drawn(2, 6)


@pytest.mark.parametrize("total", [18, 19, 100, 2000])
def test_counts_follow_the_published_imbalance(total):
    counts = class_counts(total)
    assert sum(counts) == total
    assert min(counts) >= 3
    if total >= 2000:
        np.testing.assert_allclose(
            np.array(counts) / total, np.array(PUBLISHED_COUNTS) / sum(PUBLISHED_COUNTS), atol=0.002
        )


def test_sizes_cover_the_documented_range():
    sizes = np.array([image_size(np.random.default_rng(seed)) for seed in range(600)])
    aspect = sizes[:, 0] / sizes[:, 1]
    assert SMALLEST <= sizes.min() < 80
    assert 700 < sizes.max() <= LARGEST
    assert NARROWEST * 0.97 <= aspect.min() < 0.5
    assert 2.1 < aspect.max() <= WIDEST * 1.03


@pytest.mark.parametrize("label", range(6), ids=objects.CLASSES)
def test_images_are_sharp_colourful_jpegs_of_the_size_drawn(label):
    picture = Image.open(io.BytesIO(drawn(label, 1)))
    assert picture.format == "JPEG"
    assert picture.size == image_size(np.random.default_rng([label, 1]))
    assert np.asarray(picture).std() > 8


def test_a_linear_model_on_pixels_stays_below_0_6():
    labels = np.repeat(np.arange(6), 45)
    pixels = [
        np.asarray(Image.open(io.BytesIO(drawn(label, 100 + i))).resize((16, 16)), np.float32).ravel() / 255
        for i, label in enumerate(labels)
    ]
    train = np.arange(len(labels)) % 3 > 0
    model = LogisticRegression(C=0.03, tol=1e-2, max_iter=500).fit(np.stack(pixels)[train], labels[train])
    assert f1_score(labels[~train], model.predict(np.stack(pixels)[~train]), average="macro") < 0.6


def test_synthetic_invalid_settings_raise_data_error(tmp_path):
    with pytest.raises(DataError, match=r"data\.root=photos .* add data=folder"):
        SyntheticSource(root="photos")
    with pytest.raises(DataError, match="expected an integer of at least 18"):
        SyntheticSource(num_images=5)
    with pytest.raises(DataError, match=r"data\.source\.seed=-1"):
        SyntheticSource(seed=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache_dir=FOLDER"):
        SyntheticSource(num_images=18, cache_dir=tmp_path / "file").prepare()
