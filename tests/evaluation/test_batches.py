"""Mini-batches of testing: how large they are, and how they come to a device."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import verydeep
from elsewhere import DEVICE, Machine, second_device
from verydeep.computing import Computing
from verydeep.configurations import Architecture
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.evaluation import batches
from verydeep.evaluation.batches import (
    BATCH_PIXELS,
    GPU_BATCH_PIXELS,
    TestImages,
    batch_bytes,
    batch_pixels,
    batches_of,
    bytes_per_pixel,
    sizes_of,
)
from verydeep.evaluation.posteriors import one_pass
from verydeep.evaluation.protocols import Pass
from verydeep.photographs.rescaling import rescale

QUIET = Computing(progress=False)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PASSES = [Pass("dense", 48), Pass("multi-crop", 40), Pass("centre-crop", 36), Pass("windows", 64)]


# Memory


@pytest.mark.parametrize("name", ["A", "A-LRN", "B", "D", "E"])
@pytest.mark.parametrize("number", [4, 2])
def test_the_memory_of_maps_is_that_of_the_layer_where_most_is_needed(name, number):
    """Compared with the maps that go through a net."""
    net = verydeep.ConvNet(name, 10, crop=64, width=0.25, fully_connected=64).eval()
    largest = 0

    def look(module, taken, given):
        nonlocal largest
        largest = max(largest, number * (taken[0].numel() + given.numel()))

    for module in net.children():
        module.register_forward_hook(look)
    with torch.no_grad():
        net(torch.zeros(2, 3, 96, 128, dtype=torch.uint8))
    image = 3 * (1 + 4 + 4)
    assert largest / (2 * 96 * 128) == bytes_per_pixel(net.architecture, number) - image


def test_a_gpu_takes_more_images_at_once_unless_its_memory_is_small(monkeypatch):
    net = Architecture("D")
    memory = 70 * 2**30
    monkeypatch.setattr(batches, "free_memory", lambda device: memory)
    assert batch_pixels(net, CPU) == BATCH_PIXELS == 2**21
    assert batch_pixels(net, torch.device("mps")) == BATCH_PIXELS
    assert batch_pixels(net, GPU) == batch_pixels(net, GPU, half=True) == GPU_BATCH_PIXELS > BATCH_PIXELS
    memory = 4 * 2**30
    each = 2 * 64 * 4 + 27  # from conv1_2 of D, and the image
    assert batch_pixels(net, GPU) == 2**30 // each
    assert batch_pixels(net, GPU, half=True) == 2**30 // (each - 2 * 64 * 2)
    memory = 0
    assert batch_pixels(net, GPU) == 1


def test_ranks_divide_the_same_batches_though_one_has_less_memory(net, photographs, on_ranks, monkeypatch):
    expected = one_pass(net, photographs, PASSES[0], Ranks(), QUIET)
    room = iter([5000, 3000])
    monkeypatch.setattr("verydeep.evaluation.posteriors.batch_pixels", lambda *_: next(room))
    for matrix in on_ranks(2, lambda ranks: one_pass(net, photographs, PASSES[0], ranks, QUIET)):
        np.testing.assert_allclose(matrix, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("one", PASSES, ids=str)
def test_the_bytes_of_a_batch_are_known_before_it_is_read(photographs, one):
    sizes = sizes_of(photographs)
    found = batches_of(photographs, one, 32, sizes, 20_000)
    images = TestImages(photographs, one, 32, "bilinear")
    largest = max(images.__getitems__(rows).pixels.nbytes for rows in found)
    # Long sides are whole numbers of pixels.
    assert batch_bytes(found, one, 32, sizes) == pytest.approx(largest, rel=0.02)
    assert batch_bytes([], one, 32, sizes) == 0
    ordinary = np.array([[4, 3]] * len(photographs))
    assert batch_bytes(found, one, 32, None) >= batch_bytes(found, one, 32, ordinary)


def test_a_pass_makes_do_with_the_workers_that_shared_memory_is_enough_for(net, photographs, monkeypatch, capsys):
    expected = one_pass(net, photographs, PASSES[0], Ranks(), QUIET)
    monkeypatch.setattr(batches, "fitting_workers", lambda workers, shared: (0, f"{workers} workers need more"))
    found = one_pass(net, photographs, PASSES[0], Ranks(), replace(QUIET, workers=9))
    np.testing.assert_array_equal(found, expected)
    assert capsys.readouterr().err.count("9 workers need more") == 1


# A device


@pytest.mark.parametrize("one", PASSES, ids=str)
def test_a_batch_is_the_rescaled_images_and_crosses_once(photographs, one):
    images = TestImages(photographs, one, 32, "bilinear")
    for rows in batches_of(photographs, one, 32):
        batch = images.__getitems__(rows)
        expected = [rescale(photographs.photographs[row], one.scale) for row in rows]
        if one.method == "centre-crop":
            expected = [image[:, (image.shape[1] - 31) // 2 :][:, :32] for image in expected]
            expected = [image[(image.shape[0] - 31) // 2 :][:32] for image in expected]
        for found, image in zip(batch.images(CPU), expected, strict=True):
            np.testing.assert_array_equal(found, image)
        if len({image.shape for image in expected}) == 1:
            together = batch.together(CPU)
            np.testing.assert_array_equal(together, np.stack(expected).transpose(0, 3, 1, 2))
            assert together.is_contiguous(memory_format=torch.channels_last)


def elsewhere(net, photographs, one, monkeypatch, pixels):
    """Test on the second device; return the posteriors, what was waited for, and the bytes that were sent."""
    sent, moved = [], Machine._moved

    def noted(self, tensor, arguments, named):
        found = moved(self, tensor, arguments, named)
        if tensor.dtype == torch.uint8 and tensor.is_cpu and found.device == DEVICE:
            assert named.get("non_blocking")
            sent.append(tensor.nbytes)
        return found

    monkeypatch.setattr(Machine, "_moved", noted)
    monkeypatch.setattr(batches, "GPU_BATCH_PIXELS", pixels)
    with second_device() as machine:
        net.to(DEVICE)
        machine.waits.clear()
        try:
            matrix = one_pass(net, photographs, one, Ranks(device=DEVICE), QUIET)
            waits = list(machine.waits)
        finally:
            net.to("cpu")
    return matrix, waits, sent


@pytest.mark.parametrize("one", PASSES, ids=str)
def test_posteriors_stay_on_the_device_until_all_are_known(new_net, photographs, monkeypatch, one):
    """One copy back, however many mini-batches; and each pixel of a rescaled photograph is sent once."""
    expected = one_pass(new_net(), photographs, one, Ranks(), QUIET)
    images = TestImages(photographs, one, 32, "bilinear")
    whole = sum(images.__getitems__([row]).pixels.nbytes for row in range(len(photographs)))
    counts = []
    for pixels in (2**23, 1):
        found, waits, sent = elsewhere(new_net(), photographs, one, monkeypatch, pixels)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert waits == ["cpu"]
        assert sum(sent) == whole
        counts.append(len(sent))
    assert counts[0] < counts[1] == len(photographs)


def test_posteriors_are_fetched_when_a_pass_is_saved(new_net, photographs, monkeypatch, tmp_path):
    monkeypatch.setattr("verydeep.evaluation.posteriors.SAVE_SECONDS", -1.0)
    monkeypatch.setattr(batches, "GPU_BATCH_PIXELS", 1)
    one, net = PASSES[0], new_net()
    expected = one_pass(net, photographs, one, Ranks(), QUIET)
    with second_device() as machine:
        net.to(DEVICE)
        machine.waits.clear()
        found = one_pass(net, photographs, one, Ranks(device=DEVICE), QUIET, unfinished=tmp_path / "a.unfinished")
        assert machine.waits == ["cpu"] * len(photographs)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        machine.waits.clear()
        again = one_pass(net, photographs, one, Ranks(device=DEVICE), QUIET, unfinished=tmp_path / "a.unfinished")
        assert machine.waits == []
    np.testing.assert_array_equal(again, found)


def test_what_a_damaged_file_leaves_out_is_counted_on_a_device_too(new_net, photographs, monkeypatch):
    net, sizes = new_net(), sizes_of(photographs)
    expected = one_pass(net, photographs, PASSES[1], Ranks(), QUIET)
    photographs.photographs[3].write_bytes(b"no image")
    unreadable = {}
    with second_device():
        found = one_pass(
            net.to(DEVICE), photographs, PASSES[1], Ranks(device=DEVICE), QUIET, sizes, unreadable=unreadable
        )
    assert list(unreadable) == [3]
    assert not found[3].any()
    kept = [row for row in range(len(photographs)) if row != 3]
    np.testing.assert_allclose(found[kept], expected[kept], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("one", "count", "searches"),
    [
        (Pass("multi-crop", 40), 40, True),
        (Pass("multi-crop", 40), 20, False),
        (Pass("centre-crop", 36), 40, True),
        (Pass("dense", 40), 40, False),
        (Pass("windows", 40), 40, False),
    ],
)
def test_cudnn_looks_for_algorithms_only_for_many_batches_of_one_shape(new_net, monkeypatch, one, count, searches):
    seen = set()
    monkeypatch.setattr(batches, "GPU_BATCH_PIXELS", 1)
    net = new_net()
    net.register_forward_pre_hook(lambda *_: seen.add(torch.backends.cudnn.benchmark))
    images = tuple(np.random.default_rng(0).integers(0, 256, (count, 34, 36, 3), np.uint8))
    dataset = Dataset("any", net.class_names, images, np.zeros(count, np.int64))
    before = torch.backends.cudnn.benchmark
    with second_device():
        one_pass(net.to(DEVICE), dataset, one, Ranks(device=DEVICE), QUIET)
    assert seen == {searches}
    assert torch.backends.cudnn.benchmark == before
