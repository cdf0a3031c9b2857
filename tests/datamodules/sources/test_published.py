"""TrashNet and TACO from a local server, and the published annotations of TACO if LITESORT_DATA contains them."""

import hashlib
import io
import json
import socket
import zipfile

import numpy as np
import pytest
from configs import composed
from PIL import Image, ImageDraw
from toy_images import data_module

from datamodules.sources import trashnet
from datamodules.sources.coco_json import read_coco
from datamodules.sources.taco import TacoSource
from datamodules.sources.trashnet import TrashnetSource
from litesort.cli.build import data_builder
from litesort.errors import DataError

COUNTS = {"glass": 7, "metal": 6, "paper": 5}


def jpeg(seed, size=(12, 9)):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def closed_address():
    """An address at which no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def zipped(server, monkeypatch):
    """A small TrashNet on the server."""
    monkeypatch.setattr(trashnet, "COUNTS", COUNTS)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, count in COUNTS.items():
            for number in range(1, count + 1):
                archive.writestr(f"dataset-resized/{name}/{name}{number}.jpg", jpeg(number))
                archive.writestr(f"__MACOSX/dataset-resized/{name}/._{name}{number}.jpg", b"junk")
    server.files["/set.zip"] = stream.getvalue()
    return server.address + "/set.zip"


def test_trashnet_is_downloaded_at_first_use_only(zipped, server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.faults = [{"stop": 500}]
    checksum = hashlib.sha256(server.files["/set.zip"]).hexdigest()
    for _ in range(2):
        source = TrashnetSource(None, tmp_path, zipped, checksum)
        data = data_module(None, tmp_path, source=source, size=8, batch_size=4)
        data.setup("fit")
        assert data.classes == ["glass", "metal", "paper"]
        assert np.bincount(data.labels).tolist() == [7, 6, 5]
        assert not data.broken
    assert len(server.requests) == 2  # one download that breaks off, and a second one
    again = TrashnetSource(source.root, None, zipped)
    assert again.samples == source.samples
    assert {path.name for path in (tmp_path / "trashnet").iterdir()} == {"images"}


def test_trashnet_archive_in_the_cache_needs_no_network(zipped, server, tmp_path, closed_address):
    (tmp_path / "trashnet").mkdir()
    (tmp_path / "trashnet" / "dataset-resized.zip").write_bytes(server.files["/set.zip"])
    with pytest.raises(DataError, match=r"is not that of .*zip.*data\.source\.sha256=null accepts any"):
        TrashnetSource(None, tmp_path, closed_address, "0" * 64).prepare()
    source = TrashnetSource(None, tmp_path, closed_address)
    source.prepare()
    assert source.read(3).shape == (9, 12, 3)


def test_trashnet_without_a_network_gives_a_hint(tmp_path, closed_address, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(DataError, match=r"cannot be downloaded to .* \(Connection refused\)") as caught:
        TrashnetSource(None, tmp_path, closed_address).prepare()
    line = str(caught.value)
    assert "\n" not in line
    assert f"put the file at {tmp_path / 'trashnet' / 'dataset-resized.zip'} yourself" in line
    assert line.endswith("or set data.root=FOLDER")


def test_archive_of_another_data_set_is_refused(zipped, server, tmp_path):
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as archive:
        archive.writestr("cats/1.jpg", b"")
    server.files["/set.zip"] = stream.getvalue()
    for _ in range(2):
        with pytest.raises(DataError, match=r"contains no folder dataset-resized: delete .*images"):
            TrashnetSource(None, tmp_path, zipped).prepare()


@pytest.fixture
def taco_url(server):
    """Six images with two boxes each on the server; the third is missing, the fourth has no URL."""
    images, annotations = [], []
    for number in range(6):
        server.files[f"/photos/{number}.jpg"] = jpeg(number, (40, 30))
        url = f"{server.address}/photos/{number}.jpg" if number != 3 else None
        images.append(
            {"id": number, "file_name": f"batch_1/{number}.jpg", "width": 40, "height": 30, "flickr_url": url}
        )
        annotations += [
            {"id": 2 * number + i, "image_id": number, "category_id": i, "bbox": [1, 1, 20, 20]} for i in (0, 1)
        ]
    del server.files["/photos/2.jpg"]
    categories = [{"id": 0, "name": "Can"}, {"id": 1, "name": "Bag"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    server.files["/annotations.json"] = json.dumps(content).encode()
    return server.address + "/annotations.json"


def test_taco_is_downloaded_at_first_use_and_lists_unavailable_images(taco_url, server, tmp_path):
    def ready():
        data = data_module(None, tmp_path, source=TacoSource(None, None, tmp_path, taco_url), size=8, batch_size=2)
        data.setup()
        return data

    data = ready()
    assert {data.samples[row].group for row in data.broken} == {"batch_1/2.jpg", "batch_1/3.jpg"}
    assert data.source.read(0).shape == (23, 23, 3)
    assert server.requests.count("/photos/2.jpg") == 1
    before = len(server.requests)
    assert before == 6
    ready()
    assert len(server.requests) == before
    note = (tmp_path / "taco-original" / "unavailable.csv").read_text().splitlines()
    assert len(note) == 3
    assert "batch_1/3.jpg,has no URL" in note
    assert any("returns 404" in line for line in note)


def test_taco_continues_after_a_network_failure(taco_url, server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    source = TacoSource(None, None, tmp_path, taco_url)
    server.faults = [{}, {}] + [{"status": 503}] * 99
    with pytest.raises(
        DataError, match=r"cannot be downloaded .*: run the command again to continue, or set data\.root="
    ):
        source.prepare()
    server.faults = []
    source.prepare()
    assert source.read(0).shape == (23, 23, 3)
    assert server.requests.count("/annotations.json") == 1


def test_taco_without_a_network_gives_a_hint(tmp_path, closed_address, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(
        DataError, match=r"put the file at .*/taco-original/annotations\.json yourself, or set data\.root=FOLDER"
    ) as caught:
        TacoSource(None, None, tmp_path, closed_address)
    assert "\n" not in str(caught.value)


def test_taco_in_a_folder_downloads_nothing(taco_url, server, tmp_path):
    (tmp_path / "annotations.json").write_bytes(server.files["/annotations.json"])
    source = TacoSource(None, tmp_path, None, taco_url)
    source.prepare()
    assert len(source.samples) == 12
    assert server.requests == []
    with pytest.raises(DataError, match="images=tiny is invalid"):
        TacoSource(None, tmp_path, None, taco_url, images="tiny")


@pytest.fixture
def annotations(public_data):
    return public_data / "taco" / "annotations.json"


def configured(*overrides):
    return data_builder(composed("train", "run_dir=unused", *overrides).data)()


@pytest.mark.public_data("taco")
def test_taco_source_finds_six_classes_in_the_published_annotations(tmp_path, annotations):
    data = configured("data=taco", f"data.file={annotations}", f"data.root={tmp_path}", "data.source.min_side=1")
    assert data.classes == ["Metal", "Paper", "Paperpack", "Plastic", "Plasticbag", "Styrofoam"]
    assert np.bincount(data.labels).tolist() == [544, 385, 112, 1263, 849, 140]
    assert data.source.left_out == {"of no class": 1491}
    for index, sample in enumerate(data.samples):
        record = data.source.image(index)
        assert 0 <= sample.box[0] < sample.box[2] <= record.width
        assert 0 <= sample.box[1] < sample.box[3] <= record.height
        assert record.urls["flickr_url"].startswith("https://")


@pytest.mark.public_data("taco")
def test_taco_config_maps_every_category_of_the_published_annotations(annotations):
    chosen = composed("train", "run_dir=unused", "data=taco").data.source.categories
    assert set(chosen) == set(read_coco(annotations)[0])


@pytest.mark.public_data("taco")
@pytest.mark.parametrize(("scale", "count"), [(1, 1), (0.25, 12)])
def test_taco_crops_show_the_object_at_any_download_size(tmp_path, annotations, scale, count):
    """Each object is drawn in one colour, at full size and at a quarter of it, which is the size of images=small."""
    content = json.loads(annotations.read_text())
    drawn, colours = set(), {}
    _, records, found = read_coco(annotations)
    for record in records:
        own = [box for box in found if box.image.name == record.name]
        if len(drawn) == count or not 3 <= len(own) <= 8 or overlap([box.edges for box in own]):
            continue
        drawn.add(record.name)
        image = Image.new("RGB", (round(record.width * scale), round(record.height * scale)))
        for number, box in enumerate(own):
            colours[f"{record.name}#{box.id}"] = colour = (60 + 25 * number, 250 - 30 * number, 40 * (number % 5))
            ImageDraw.Draw(image).rectangle([round(edge * scale) for edge in box.edges], fill=colour)
        (tmp_path / record.name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / record.name, quality=95)
    kept = {image["id"] for image in content["images"] if image["file_name"] in drawn}
    content["images"] = [image for image in content["images"] if image["id"] in kept]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    source = configured("data=taco", f"data.root={tmp_path}", "data.source.margin=0", "data.size=32").source
    assert len({sample.group for sample in source.samples}) >= count - 3  # some images have no object with a class
    for index, sample in enumerate(source.samples):
        crop = source.read(index, 32).astype(float)
        inner = crop[crop.shape[0] // 4 : -crop.shape[0] // 4, crop.shape[1] // 4 : -crop.shape[1] // 4]
        assert np.abs(inner.mean((0, 1)) - colours[sample.path]).max() < 8, sample.path


def overlap(edges):
    return any(
        a[0] < b[2] + 9 and b[0] < a[2] + 9 and a[1] < b[3] + 9 and b[1] < a[3] + 9
        for i, a in enumerate(edges)
        for b in edges[:i]
    )
