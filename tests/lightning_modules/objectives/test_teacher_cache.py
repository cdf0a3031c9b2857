"""TeacherCache: outputs of a teacher, stored per batch."""

import torch

from lightning_modules.objectives.teacher_cache import TeacherCache


def test_outputs_of_a_mirrored_batch_are_stored_unmirrored():
    cache = TeacherCache(1e6)
    cache.key, cache.mirrored = 0, True
    images, inputs = torch.rand(2, 3, 4, 4), []

    def compute(images):
        inputs.append(images)
        return [images]

    maps = cache(images, compute)[0]
    assert torch.equal(inputs[0], images.flip(3))
    torch.testing.assert_close(maps, images, atol=1e-3, rtol=1e-3)
    cache.mirrored = False
    torch.testing.assert_close(cache(images, compute)[0], images.flip(3), atol=1e-3, rtol=1e-3)
    assert len(inputs) == 1


def test_batches_beyond_max_bytes_are_computed_each_time():
    calls = []

    def compute(images):
        calls.append(images)
        return [images.mean((2, 3))]

    cache = TeacherCache(max_bytes=2 * 3 * 2)  # two images of three float16 values
    for _ in range(2):
        for key in range(2):
            cache.key = key
            assert cache(torch.ones(2, 3, 4, 4), compute)[0].dtype == torch.float32
    assert (len(calls), cache.size) == (3, 12)
    cache.key = 0
    cache(torch.ones(2, 3, 2, 2), compute)  # another image size is computed again
    assert len(calls) == 4
