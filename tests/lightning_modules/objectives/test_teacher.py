"""Teachers: loading, class order, resizing and sharing between copies."""

import copy

import pytest
import torch

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import MODEL_CARD, make_model_card
from lightning_modules.objectives.teacher import Teacher, TeacherEnsemble, load_teacher, resized
from litesort.errors import ModelError

CLASSES = ["Metal", "Paper", "Plastic"]


def save(path, classes=CLASSES, size=32, seed=0, name="lcnet_050"):
    torch.manual_seed(seed)
    net = create_backbone(name, len(classes), pretrained=False)
    with torch.no_grad():  # logits that differ between images
        for parameter in net.head_parameters():
            parameter.normal_()
    card = make_model_card(net, classes, preprocessing={"size": size, "resize": "pad"})
    torch.save({"state_dict": {f"net.{k}": v for k, v in net.state_dict().items()}, MODEL_CARD: card}, path)
    return net.eval()


def test_load_teacher_equals_its_network(tmp_path):
    net = save(tmp_path / "a.ckpt")
    teacher = load_teacher(str(tmp_path / "a.ckpt"))
    images = torch.rand(4, 3, 32, 32)
    outputs = teacher(images)
    assert not outputs.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(outputs, net(images).log_softmax(1), atol=1e-5, rtol=1e-5)
    loaded = teacher.members[0].net
    assert loaded is not None
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_teacher_resizes_images(tmp_path):
    net = save(tmp_path / "a.ckpt", size=64)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = net(torch.nn.functional.interpolate(images, (64, 64), mode="bilinear")).log_softmax(1)
    torch.testing.assert_close(load_teacher(str(tmp_path / "a.ckpt"))(images), expected, atol=1e-5, rtol=1e-5)
    plain = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(resized(plain, 20), torch.full((1, 3, 20, 20), 0.3))
    assert resized(images, None).shape == images.shape


def test_teacher_ensemble_averages_log_probabilities(tmp_path):
    nets = [save(tmp_path / f"{seed}.ckpt", seed=seed) for seed in (0, 1)]
    teacher = load_teacher([str(tmp_path / "0.ckpt"), str(tmp_path / "1.ckpt")])
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = sum(net(images).log_softmax(1) for net in nets) / 2
    torch.testing.assert_close(teacher(images), expected, atol=1e-5, rtol=1e-5)


def test_teacher_match_reorders_classes():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    teacher = TeacherEnsemble([Teacher(lambda images: logits, ["Plastic", "Metal", "Paper"], None, "a.onnx")])
    teacher.match(CLASSES)
    torch.testing.assert_close(teacher(torch.zeros(1, 3, 4, 4)), logits.log_softmax(1)[:, [1, 2, 0]])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["Metal", "Paper"], "has no class Plastic"),
        ([*CLASSES, "Glass"], "was trained on the additional class Glass"),
    ],
)
def test_teacher_match_rejects_other_classes(classes, message):
    teacher = TeacherEnsemble([Teacher(lambda images: images, classes, None, "old.ckpt")])
    with pytest.raises(ModelError, match=f"teacher=old.ckpt {message}"):
        teacher.match(CLASSES)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (None, "teacher is not given"),
        ([], "teacher is not given"),
        ("nowhere.ckpt", r"teacher=nowhere\.ckpt does not exist"),
        (["a.ckpt", "a.ckpt"], "names one file twice"),
    ],
)
def test_load_teacher_rejects_invalid_paths(paths, message):
    with pytest.raises(ModelError, match=message) as error:
        load_teacher(paths)
    assert "\n" not in str(error.value)


def test_load_teacher_opens_exported_files(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    opened = (lambda images: images.mean((2, 3))), CLASSES, 8
    teacher = load_teacher(str(tmp_path / "a.onnx"), open_other=lambda path: opened)
    assert teacher(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    with pytest.raises(ModelError, match="is not a torch file"):
        load_teacher(str(tmp_path / "a.onnx"))


def test_deepcopy_shares_the_teacher(tmp_path):
    save(tmp_path / "a.ckpt")
    teacher = load_teacher(str(tmp_path / "a.ckpt"))
    assert copy.deepcopy({"teacher": teacher})["teacher"] is teacher
