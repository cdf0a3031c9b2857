"""Embeddings of a frozen network, in fp32 or bf16."""

import numpy as np
import pytest

from lightning_modules.backbones import embedder
from lightning_modules.backbones.pretrained import PACKAGES, is_installed
from lightning_modules.precision import BF16, FP32, Precision

pytestmark = pytest.mark.skipif(not is_installed(PACKAGES["tf_efficientnet_lite0"]), reason="needs the extra [weights]")


def test_bf16_finds_the_same_neighbours_as_fp32(monkeypatch):
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (12, 10, 10, 3), dtype=np.uint8)
    images = coarse.repeat(16, 1).repeat(16, 2)
    embeddings = {}
    for name in (FP32, BF16):
        monkeypatch.setattr(embedder, "faster_on_cpu", lambda *_, name=name: Precision(name, {}))
        features = embedder.Embedder()(images)
        assert features.shape == (12, 1280)
        assert features.dtype == np.float32
        embeddings[name] = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert (embeddings[FP32] * embeddings[BF16]).sum(1).min() > 0.99
    assert ((embeddings[FP32] @ embeddings[BF16].T).argmax(1) == np.arange(12)).all()
