"""ncnn models: three files of one export, in fp32 and fp16."""

import shutil

import numpy as np
import pytest

from datamodules import images
from deployment.formats import FORMATS
from deployment.predictors import TorchPredictor, load_exported
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import make_model_card
from litesort.errors import DeploymentError

pytest.importorskip("ncnn", reason="the ncnn extra is not installed")
pytest.importorskip("pnnx", reason="the ncnn extra is not installed")

NCNN = FORMATS["ncnn"]


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("ncnn") / "model.ncnn.param"
    return NCNN.write(trained.net, path, trained.card, precision="fp16")


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "tf_efficientnet_lite0", "repvgg_a0"])
def test_files_of_other_architectures_compute_what_torch_computes(name, trained, tmp_path):
    net = create_backbone(name, 3, pretrained=False).eval()
    card = make_model_card(net, trained.classes, preprocessing={"size": 48, "resize": "pad"})
    pixels = np.stack([images.load(file, 48, "pad") for file in trained.files[:6]])
    path = NCNN.write(net, tmp_path / "model.ncnn.param", card, temperature=0.5)
    expected = (TorchPredictor(net)(pixels).log() / 0.5).softmax(1)
    np.testing.assert_allclose(load_exported(path)(pixels), expected, atol=1e-4)


def test_fp16_arithmetic_is_allowed_for_fp16_files_only(model, trained, tmp_path):
    exact = NCNN.write(trained.net, tmp_path / "exact.ncnn.param", trained.card)
    assert NCNN.load(exact).net.opt.use_fp16_arithmetic is False
    assert NCNN.load(model).net.opt.use_fp16_arithmetic is True
    np.testing.assert_allclose(NCNN.load(model)(trained.pixels), trained.expected, atol=0.02)


def test_number_of_threads_is_set_and_reported(model):
    predictor = NCNN.load(model, 2)
    assert (predictor.net.opt.num_threads, predictor.details["runtime_threads"]) == (2, 2)


def test_missing_files_and_files_of_different_exports_are_refused(model, tmp_path):
    for file in NCNN.files(model):
        shutil.copy(file, tmp_path)
    path = tmp_path / model.name
    assert NCNN.load(path).card["exported"]["precision"] == "fp16"
    for suffix in (".bin", ".json"):
        with pytest.raises(
            DeploymentError, match=r"a companion file of an exported model: give ckpt=.*model\.ncnn\.param"
        ):
            load_exported(path.with_suffix(suffix))
    weights = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(weights[:-4])
    with pytest.raises(DeploymentError, match=r"from different exports: copy all three again"):
        NCNN.load(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(DeploymentError, match=r"needs model\.ncnn\.json beside it"):
        NCNN.load(path)


def test_options_are_attributes_of_ncnn_option(model):
    assert NCNN.load(model, 1, {"use_winograd_convolution": False}).net.opt.use_winograd_convolution is False
    with pytest.raises(DeploymentError, match=r"runtime\.no_such=1 is not an option of ncnn: leave it out"):
        NCNN.load(model, 1, {"no_such": 1})
    with pytest.raises(DeploymentError, match=r"runtime\.use_winograd_convolution=often .* give a value of type bool"):
        NCNN.load(model, 1, {"use_winograd_convolution": "often"})


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"give uint8 \(B, 32, 32, 3\)"):
        NCNN.load(model)(np.zeros((1, 16, 16, 3), np.uint8))


def test_network_with_unsupported_layers_is_an_error_in_one_line(trained, tmp_path):
    net = create_backbone(
        "deit_tiny_distilled_patch16_224", 3, pretrained=False, kwargs={"img_size": 32, "depth": 1}
    ).eval()
    with pytest.raises(DeploymentError, match=r"format=ncnn cannot express deit_tiny.*: layer .*: leave") as caught:
        NCNN.write(
            net,
            tmp_path / "model.ncnn.param",
            make_model_card(net, trained.classes, preprocessing={"size": 32, "resize": "pad"}),
        )
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_not_offered_gives_a_reason():
    assert "take format=onnx or openvino" in NCNN.not_offered("int8")
    assert "take precision=fp16" in NCNN.not_offered("bf16")
    assert NCNN.not_offered("fp16") is None
