"""Folder and file-list sources on small image files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images.decode import BrokenImage
from datamodules.sources.base import Sample, Source
from datamodules.sources.filelist import FileListSource
from datamodules.sources.folder import FolderSource
from litesort.errors import DataError


def write_image(file: Path, colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (8, 6)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)
    return file


def paths(source: Source) -> list[str]:
    return [sample.path for sample in source.samples]


def test_folder_order_is_natural_and_other_files_are_ignored(tmp_path):
    for name in ("can/img10.jpg", "can/img2.jpg", "can/deep/er/x.PNG", "bag/1.png", ".hidden/a.jpg", "can/.b.jpg"):
        write_image(tmp_path / name)
    write_image(tmp_path / "__MACOSX" / "a.jpg")
    (tmp_path / "can" / "README.txt").write_text("not an image")
    (tmp_path / "loose.csv").write_text("a,b")
    source = FolderSource(tmp_path)
    assert source.classes == ["bag", "can"]
    assert paths(source) == ["bag/1.png", "can/deep/er/x.PNG", "can/img2.jpg", "can/img10.jpg"]
    assert [sample.label for sample in source.samples] == [0, 1, 1, 1]
    assert {sample.split for sample in source.samples} == {None}
    assert source.file(2) == tmp_path / "can" / "img2.jpg"


def test_text_file_with_image_suffix_is_a_broken_sample(tmp_path):
    write_image(tmp_path / "can" / "1.jpg")
    (tmp_path / "can" / "2.jpg").write_text("not an image")
    source = FolderSource(tmp_path)
    assert source.read(0).shape == (6, 8, 3)
    with pytest.raises(BrokenImage):
        source.read(1)


def test_folder_honours_split_folders(tmp_path):
    for split in ("Train", "valid", "test"):
        write_image(tmp_path / split / "can" / "1.png")
    write_image(tmp_path / "Train" / "bag" / "1.png")
    source = FolderSource(tmp_path)
    assert source.classes == ["bag", "can"]
    assert {sample.path: sample.split for sample in source.samples} == {
        "Train/bag/1.png": "train",
        "Train/can/1.png": "train",
        "valid/can/1.png": "val",
        "test/can/1.png": "test",
    }


def test_a_class_may_be_named_train(tmp_path):
    write_image(tmp_path / "train" / "1.png")
    write_image(tmp_path / "can" / "1.png")
    assert FolderSource(tmp_path).classes == ["can", "train"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "does not exist"),
        (lambda root: write_image(root / "a.png"), "is a file"),
        (lambda root: write_image(root / "a.png").parent, "has no sub-folders"),
        (lambda root: write_image(root / "can" / "notes.txt.png").parents[1] / "can", "has no sub-folders"),
        (lambda root: (root / "can" / "empty").mkdir(parents=True) or root, "no image in class folder can"),
        (
            lambda root: [write_image(root / n / "c" / "1.png") for n in ("train", "val", "extra")] and root,
            "beside extra",
        ),
        (lambda root: None, "data.root=photos"),
    ],
)
def test_folder_errors_are_one_line_that_names_data_root(tmp_path, make, message):
    root = make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        FolderSource(root)
    assert "data.root" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_follows_links_but_not_in_a_cycle(tmp_path):
    write_image(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    write_image(root / "can" / "1.png")
    (root / "bag").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "can" / "again").symlink_to(root / "can", target_is_directory=True)
    (root / "can" / "up").symlink_to(root, target_is_directory=True)
    assert paths(FolderSource(root)) == ["bag/1.png", "can/1.png"]


def test_filelist_reads_columns_by_name(tmp_path):
    write_image(tmp_path / "x" / "a, b.png", (0, 255, 0))
    write_image(tmp_path / "c.png")
    file = tmp_path / "list.csv"
    text = '\ufeffLabel,extra,path,group,split\nbag,1,"x/a, b.png",g1,Validation\n\ncan,2,c.png,,\n'
    file.write_text(text, encoding="utf-8")
    source = FileListSource(file)
    assert source.classes == ["bag", "can"]
    assert source.samples == [Sample("x/a, b.png", 0, "val", "g1"), Sample("c.png", 1)]
    np.testing.assert_array_equal(source.read(0)[0, 0], [0, 255, 0])


@pytest.mark.parametrize("separator", [";", "\t"])
def test_filelist_accepts_other_separators_and_a_root(tmp_path, separator):
    write_image(tmp_path / "photos" / "a.png")
    file = tmp_path / "list.csv"
    file.write_text(f"path{separator}label\na.png{separator}can\n")
    source = FileListSource(file, tmp_path / "photos")
    assert source.read(0).shape == (6, 8, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1: no column path and label"),
        (b"file,label\na,b\n", "line 1: no column path"),
        (b"path,label\n", "contains no image"),
        (b"path,label\na.png,can\nb.png\n", "line 3: 1 columns"),
        (b"path,label\na.png,can\nb.png,\n", "line 3: the label is empty"),
        (b"path,label\na.png,can\na.png,bag\n", "line 3: a.png is also in line 2"),
        (b"path,label,split\na.png,can,holdout\n", "line 2: split 'holdout'"),
        (b'path,label\n"a.png,can\n', "line 2: "),
        (b"path,label\na.png,caf\xe9\n", "not UTF-8"),
    ],
)
def test_filelist_errors_name_the_line(tmp_path, text, message):
    file = tmp_path / "list.csv"
    file.write_bytes(text)
    with pytest.raises(DataError, match=message) as caught:
        FileListSource(file)
    assert "\n" not in str(caught.value)


def test_permission_errors_are_data_errors(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    write_image(tmp_path / "can" / "1.png")
    (tmp_path / "list.csv").write_text("path,label\ncan/1.png,can\n")
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refuse)
        with pytest.raises(DataError, match=r"data\.root: .* cannot be listed \(Permission denied\)"):
            FolderSource(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"list\.csv cannot be read \(Permission denied\)"):
        FileListSource(tmp_path / "list.csv")


def test_filelist_without_a_file_names_the_key(tmp_path):
    with pytest.raises(DataError, match=r"data\.file=labels\.csv"):
        FileListSource(None)
    with pytest.raises(DataError, match=r"data\.file=.*is not a file"):
        FileListSource(tmp_path)


def test_a_box_is_cropped_and_digests_follow_content_and_box(tmp_path):
    picture = Image.new("RGB", (20, 10))
    picture.paste((0, 0, 255), (5, 2, 9, 8))
    picture.save(tmp_path / "a.png")
    source = Source()
    source.root, source.classes = tmp_path, ["can"]
    source.samples = [Sample("a.png", 0), Sample("a.png", 0, box=(5, 2, 9, 8))]
    assert source.read(0).shape == (10, 20, 3)
    np.testing.assert_array_equal(source.read(1), np.broadcast_to(np.uint8([0, 0, 255]), (6, 4, 3)))
    before = [source.digest(0), source.digest(1)]
    assert before[0] != before[1]
    write_image(tmp_path / "a.png")
    assert source.digest(0) != before[0]


@pytest.mark.public_data("trashnet")
def test_folder_source_reads_trashnet(public_data):
    source = FolderSource(public_data / "trashnet")
    assert source.classes == ["cardboard", "glass", "metal", "paper", "plastic", "trash"]
    assert len(source.samples) > 1500
    assert paths(source)[0].startswith("cardboard/cardboard")
    assert source.read(0).dtype == np.uint8
