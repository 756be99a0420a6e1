"""Sect. 3.2, 4.2 to 4.4: passes over a data set, their mini-batches, and their averages."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from math import ceil
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import verydeep
from synthetic import refusal
from verydeep import weights
from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation import batches as reading
from verydeep.evaluation import posteriors as module
from verydeep.evaluation.batches import batches_of
from verydeep.evaluation.multicrop import grid_crops
from verydeep.evaluation.posteriors import average, one_pass, posteriors
from verydeep.evaluation.protocols import Pass, passes, protocol
from verydeep.photographs.photograph import ImageError, decode
from verydeep.photographs.rescaling import rescale, rescaled_size

QUIET = Computing(progress=False)
PASSES = [Pass("dense", 48), Pass("dense", 40, flip=False), Pass("multi-crop", 40), Pass("centre-crop", 36)]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def in_numpy(net, photograph, one, softmax):
    """Compute the posteriors of one photograph by itself."""
    image = rescale(photograph, one.scale, net.card.rescaling)
    crops = {"dense": lambda: image[None]}.get(
        one.method,
        lambda: grid_crops(torch.from_numpy(image), net.crop, 5 if one.method == "multi-crop" else 1).numpy(),
    )()
    views = [crops, crops[:, :, ::-1]] if one.flip else [crops]
    with torch.no_grad():
        maps = [net.score_map(torch.from_numpy(view.copy()).permute(0, 3, 1, 2)).numpy() for view in views]
    return np.concatenate([softmax(scores.mean((2, 3))) for scores in maps]).mean(0)


@pytest.fixture
def read(monkeypatch):
    """How many times each photograph was read for a pass in this process."""
    counts = Counter()

    def counted(photograph, scale, rescaling):
        counts[str(photograph)] += 1
        return rescale(photograph, scale, rescaling)

    monkeypatch.setattr(reading, "rescale", counted)
    return counts


def once(dataset):
    return {str(path): 1 for path in dataset.photographs}


# Protocols


def test_a_protocol_is_the_passes_that_it_averages():
    assert passes("dense", [256]) == (Pass("dense", 256, True),)
    assert passes("multi-crop", [224, 288], flip=False) == (
        Pass("multi-crop", 224, False),
        Pass("multi-crop", 288, False),
    )
    assert set(passes("both", [256, 384])) == {
        Pass(method, scale) for method in ("dense", "multi-crop") for scale in (256, 384)
    }
    assert passes("centre-crop", [256]) == (Pass("centre-crop", 256),)


def test_a_protocol_has_a_name_that_says_method_scales_and_mirror_images():
    assert protocol("dense", [256, 384, 512], True) == "dense, Q = 256, 384, 512, with mirror images"
    assert protocol("both", (256,), False) == "dense & multi-crop, Q = 256, no mirror images"


def test_wrong_protocols_are_refused():
    assert "'densely'; choose one of dense, multi-crop, both, centre-crop" in refusal(passes, "densely", [256])
    assert "at least one test scale" in refusal(passes, "dense", [])
    assert "each once" in refusal(passes, "dense", [256, 256])


@pytest.mark.parametrize("method", ["dense", "multi-crop", "both"])
def test_scales_below_the_crop_are_refused_before_any_work(net, photographs, read, method):
    message = refusal(posteriors, net, photographs, scales=[48, 31], method=method)
    assert "31 pixels" in message
    assert "at least 32" in message
    assert not read
    refusal(one_pass, net, photographs, Pass("dense", 31), Ranks(), QUIET)


# Posteriors


@pytest.mark.parametrize("one", PASSES, ids=str)
def test_every_row_is_the_posterior_of_that_image_alone(net, photographs, softmax, one):
    """Images of equal size share a mini-batch, even if they are not neighbours in the data set."""
    found = one_pass(net, photographs, one, Ranks(), QUIET)
    assert found.dtype == np.float32
    close(found, [in_numpy(net, photograph, one, softmax) for photograph in photographs.photographs])
    close(found.sum(1), 1)
    apart = np.abs(found[:, None] - found).max(2) + np.eye(len(found))
    assert apart.min() > 1e-3, "this test might not notice two swapped rows"


def test_photographs_are_rescaled_as_the_nets_card_says(net, photographs, softmax):
    one = Pass("dense", 40, False)
    plain = one_pass(net, photographs, one, Ranks(), QUIET)
    net.card = replace(net.card, rescaling="bicubic")
    found = one_pass(net, photographs, one, Ranks(), QUIET)
    assert np.abs(found - plain).max() > 1e-4
    close(found, [in_numpy(net, photograph, one, softmax) for photograph in photographs.photographs])
    (first,) = verydeep.predict(net, [photographs.photographs[0]], scales=[40], top=net.classes)
    one_by_one = one_pass(net, photographs, Pass("dense", 40, net.card.flip), Ranks(), QUIET)[0]
    assert first.posteriors == pytest.approx(sorted(one_by_one.tolist(), reverse=True), rel=1e-3)


def test_the_photographs_of_these_tests_share_batches_out_of_order(photographs):
    batches = batches_of(photographs, PASSES[0], 32)
    assert any(rows != list(range(rows[0], rows[-1] + 1)) for rows in batches)
    assert 1 < len(batches) < len(photographs)


def test_pixels_in_memory_are_tested_as_files_are(net, photographs):
    pixels = tuple(decode(path) for path in photographs.photographs)
    in_memory = replace(photographs, photographs=pixels)
    close(posteriors(net, in_memory, [48]), posteriors(net, photographs, [48]))


def test_scales_and_methods_are_averaged(net, photographs):
    single = {
        (method, scale): posteriors(net, photographs, [scale], method).astype(np.float64)
        for method in ("dense", "multi-crop")
        for scale in (32, 40, 52)
    }
    dense = sum(single["dense", scale] for scale in (32, 40, 52)) / 3
    crops = sum(single["multi-crop", scale] for scale in (32, 40, 52)) / 3
    assert np.abs(dense - single["dense", 32]).max() > 0.01
    assert np.abs(dense - crops).max() > 0.01
    close(posteriors(net, photographs, [32, 40, 52]), dense)
    close(posteriors(net, photographs, [52, 32, 40], "multi-crop"), crops)
    both = verydeep.posteriors(net, photographs, scales=[32, 40, 52], method="both")
    close(both, (dense + crops) / 2)
    close(both.sum(1), 1)


def test_mirror_images_can_be_left_out(net, photographs):
    found = posteriors(net, photographs, [48], flip=False)
    close(found, one_pass(net, photographs, Pass("dense", 48, flip=False), Ranks(), QUIET))
    assert np.abs(found - posteriors(net, photographs, [48])).max() > 0.01


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_an_average_is_the_mean_of_its_matrices_each_counting_equally(seed, count):
    matrices = np.random.default_rng(seed).random((count, 5, 3), np.float32)
    expected = matrices.astype(np.float64).mean(0).astype(np.float32)
    kept = matrices.copy()
    for given_as in (list(matrices), tuple(matrices), iter(matrices)):
        found = average(given_as)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(matrices, kept)


def test_testing_leaves_a_net_as_it_was(new_net, photographs):
    """Dropout is off in testing, whatever mode the net was in; afterwards, all modes are restored."""
    net = new_net()
    expected = posteriors(net, photographs, [48])
    net.train().drop7.eval()
    close(posteriors(net, photographs, [48]), expected)
    assert net.training
    assert net.drop6.training
    assert not net.drop7.training


@pytest.mark.parametrize(("training_scale", "flip", "scale"), [((48, 48), False, 64), ((36, 124), True, 96)])
def test_scales_and_mirroring_are_those_of_the_nets_card(new_net, photographs, training_scale, flip, scale):
    net = new_net()
    net.card = replace(net.card, training_scale=training_scale, flip=flip)
    close(verydeep.posteriors(net, photographs), posteriors(net, photographs, [scale], flip=flip))


def test_a_net_with_another_last_layer_has_as_many_posteriors(new_net, photographs):
    net = new_net()
    net.fc8 = torch.nn.Conv2d(8, 3, 1)
    assert posteriors(net, photographs, [48]).shape == (10, 3)
    net.fc8 = torch.nn.Identity()
    with pytest.raises(UserError, match="8 scores per image; its card says 7 classes"):
        posteriors(net, photographs, [48])


def test_bf16_stays_near_fp32(net, photographs):
    exact, rounded = (
        one_pass(net, photographs, PASSES[0], Ranks(), replace(QUIET, precision=precision))
        for precision in ("fp32", "bf16")
    )
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.03
    close(rounded.sum(1), 1)


@pytest.mark.parametrize("one", [PASSES[0], PASSES[2]], ids=str)
def test_the_number_of_workers_changes_nothing(net, photographs, one):
    alone, helped = (
        one_pass(net, photographs, one, Ranks(), replace(QUIET, workers=workers)) for workers in (0, 1)
    )
    np.testing.assert_array_equal(alone, helped)


def test_a_data_set_without_images_gives_a_matrix_without_rows(net):
    nothing = Dataset("nothing", net.class_names, (), np.zeros(0, np.int64))
    assert posteriors(net, nothing, [48], "both").shape == (0, 7)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_also_from_another_process(net, photographs, workers):
    sizes = reading.sizes_of(photographs)
    damaged = photographs.photographs[5]
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(ImageError) as refused:
        one_pass(net, photographs, PASSES[0], Ranks(), replace(QUIET, workers=workers), sizes)
    assert refused.value.path == damaged
    assert "ends early" in str(refused.value)


def test_sizes_are_looked_up_once_for_all_scales(net, photographs, monkeypatch):
    looked = Counter()

    def size_of(photograph, original=reading.photograph_size):
        looked[str(photograph)] += 1
        return original(photograph)

    monkeypatch.setattr(reading, "photograph_size", size_of)
    posteriors(net, photographs, [32, 40, 48], "both")
    assert looked == once(photographs)


# Batches

SIDE = st.one_of(st.integers(1, 40), st.integers(1, 3000))


@given(
    st.lists(st.tuples(SIDE, SIDE), max_size=30),
    st.integers(1, 5),
    st.sampled_from(["dense", "multi-crop", "centre-crop"]),
    st.sampled_from([32, 73, 256]),
    st.integers(1, 2**18),
)
@settings(deadline=None)
def test_batches_partition_the_images_by_rescaled_size_within_the_budget(sizes, repeats, method, scale, budget):
    sizes = np.array(sizes * repeats, np.int64).reshape(-1, 2)
    count = len(sizes)
    dataset = Dataset("any", ("a",), (np.zeros((1, 1, 3), np.uint8),) * count, np.zeros(count, np.int64))
    with mock.patch.object(reading, "BATCH_PIXELS", budget):
        batches = batches_of(dataset, Pass(method, scale), 32, sizes)
    assert sorted(row for rows in batches for row in rows) == list(range(count))
    # The pixels that pass through the net for each image: the image itself, or its crops.
    if method == "dense":
        shapes = [rescaled_size(*size, scale) for size in sizes.tolist()]
    else:
        shapes = [(32, 32 * (25 if method == "multi-crop" else 1))] * count
    lengths = {}
    for rows in batches:
        (shape,) = {shapes[row] for row in rows}
        lengths.setdefault(shape, []).append(len(rows))
    for shape, count_alike in Counter(shapes).items():
        most = max(1, budget // (shape[0] * shape[1]))
        assert max(lengths[shape]) <= most
        assert len(lengths[shape]) == ceil(count_alike / most), (
            "images of equal size share as few batches as possible"
        )


def test_a_batch_in_testing_has_as_many_pixels_as_41_crops_of_224():
    sizes = np.full((42, 2), 224)
    dataset = Dataset("any", ("a",), (np.zeros((1, 1, 3), np.uint8),) * 42, np.zeros(42, np.int64))
    assert list(map(len, batches_of(dataset, Pass("dense", 224), 224, sizes))) == [41, 1]


# Ranks


@pytest.mark.parametrize("world", [2, 3, 11])
@pytest.mark.parametrize("one", [PASSES[0], PASSES[3]], ids=str)
def test_any_number_of_ranks_gives_the_matrix_of_one_and_reads_every_image_once(
    net, photographs, read, world, one, monkeypatch, on_ranks
):
    """With eleven ranks there are more ranks than batches, and some have nothing to do."""
    monkeypatch.setattr(reading, "BATCH_PIXELS", 3 * 32 * 32)
    expected = one_pass(net, photographs, one, Ranks(), QUIET)
    assert 3 < len(batches_of(photographs, one, 32)) < 11
    read.clear()
    found = on_ranks(world, lambda ranks: one_pass(net, photographs, one, ranks, QUIET))
    assert len(found) == world
    for matrix in found:
        np.testing.assert_array_equal(matrix, expected)
    assert read == once(photographs)


RANK = """
import json, os, sys
from collections import Counter
import numpy as np
from verydeep import open_dataset
from verydeep.computing import Computing
from verydeep.distributed import ranks
from verydeep.evaluation import batches, posteriors, testing

read, rescale = Counter(), batches.rescale
def counted(photograph, scale, rescaling):
    read[photograph.name] += 1
    return rescale(photograph, scale, rescaling)
batches.rescale = counted

out, run, data = sys.argv[1:]
with ranks("cpu") as here:
    dataset = open_dataset(data, "val")
    sizes = batches.sizes_of(dataset)
    first = posteriors.posteriors(testing.weights.load(run), dataset, [40, 48], "both", ranks=here)
    once = dict(read)
    lines = []
    for _ in range(2):
        read.clear()
        setup = testing.Setup(dataset, sizes, here, Computing(), lines.append)
        results = testing.test(setup, [testing.tested(run)], [40], "dense")
    np.savez(f"{out}.npz", posteriors=first)
    with open(f"{out}.json", "w") as file:
        json.dump({"read": once, "again": dict(read), "wrong": results[0].top1.wrong, "lines": lines}, file)
"""


def test_two_processes_give_the_matrix_of_one(new_net, scene, folder, tmp_path):
    """They start as under torchrun, on machines that share only the photographs: each has a copy of the run."""
    for row, (height, width) in enumerate([(40, 50), (60, 44), (40, 50), (33, 64), (70, 32)]):
        path = folder / f"val/{('cat', 'Dog')[row % 2]}/{row}.png"
        Image.fromarray(scene(row, height, width)).save(path)
    dataset = verydeep.open_dataset(folder, "val")
    net = new_net(classes=dataset.classes)
    for rank in range(2):
        weights.save(net, tmp_path / f"run{rank}" / weights.FILE_NAME)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rendezvous = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, tmp_path / f"out{rank}", tmp_path / f"run{rank}", folder],
            env=os.environ | rendezvous | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    expected = posteriors(net, dataset, [40, 48], "both")
    read, stored = Counter(), posteriors(net, dataset, [40])
    for rank in range(2):
        with np.load(tmp_path / f"out{rank}.npz") as arrays:
            close(arrays["posteriors"], expected)
        said = json.loads((tmp_path / f"out{rank}.json").read_text())
        assert said["read"], "each rank does a share of the work"
        read += said["read"]
        assert said["wrong"] == int((stored.argmax(1) != dataset.labels).sum())
        assert said["again"] == {}, "stored already; the first rank reads it for both"
        assert len([line for line in said["lines"] if "already stored" in line]) == (rank == 0)
    assert read == {path.name: 4 for path in dataset.photographs}, "once per pass, by one of the two"
    assert len(list(tmp_path.glob("run0/posteriors/*"))) == 1
    assert not list(tmp_path.glob("run1/posteriors/*"))


# Interruption


def interrupted(net, photographs, one, unfinished, monkeypatch):
    """Interrupt a pass by a damaged image in its fourth batch. Return the photographs that are left to read."""
    monkeypatch.setattr(module, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(reading, "BATCH_PIXELS", 3 * 32 * 32)
    sizes = reading.sizes_of(photographs)
    batches = batches_of(photographs, one, net.crop, sizes)
    path = photographs.photographs[batches[3][0]]
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(ImageError, match=path.name):
        one_pass(net, photographs, one, Ranks(), QUIET, sizes, unfinished)
    path.write_bytes(whole)
    left = [str(photographs.photographs[row]) for batch in batches[3:] for row in batch]
    assert 0 < len(left) < len(photographs)
    return dict.fromkeys(left, 1)


@pytest.mark.parametrize("one", [PASSES[0], PASSES[3]], ids=str)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_pass_goes_on_where_it_was(net, photographs, tmp_path, monkeypatch, read, one, workers):
    expected = one_pass(net, photographs, one, Ranks(), QUIET)
    unfinished = tmp_path / "pass.unfinished"
    left = interrupted(net, photographs, one, unfinished, monkeypatch)
    assert unfinished.is_file()
    read.clear()
    found = one_pass(net, photographs, one, Ranks(), replace(QUIET, workers=workers), unfinished=unfinished)
    if workers == 0:  # workers count in their own memory
        assert read == left
    close(found, expected)


def test_an_interrupted_pass_goes_on_though_its_batches_are_cut_otherwise(
    net, photographs, tmp_path, monkeypatch, read
):
    """As another version might cut them. No row is computed twice, and none is left out."""
    one = PASSES[3]
    expected = one_pass(net, photographs, one, Ranks(), QUIET)
    left = interrupted(net, photographs, one, tmp_path / "pass.unfinished", monkeypatch)
    monkeypatch.setattr(reading, "BATCH_PIXELS", 4 * 32 * 32)
    read.clear()
    found = one_pass(net, photographs, one, Ranks(), QUIET, unfinished=tmp_path / "pass.unfinished")
    assert read == left
    close(found, expected)


def test_a_damaged_unfinished_file_is_not_gone_on_from(net, photographs, tmp_path, read):
    (tmp_path / "pass.unfinished").write_bytes(b"\xff" * 50)
    found = one_pass(net, photographs, PASSES[0], Ranks(), QUIET, unfinished=tmp_path / "pass.unfinished")
    assert read == once(photographs)
    close(found, posteriors(net, photographs, [48]))


def test_a_pass_that_cannot_be_kept_goes_on_and_says_so_once(net, photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SAVE_SECONDS", -1.0)
    (tmp_path / "file").write_text("")
    unfinished = tmp_path / "file" / "pass.unfinished"
    found = one_pass(net, photographs, PASSES[0], Ranks(), QUIET, unfinished=unfinished)
    close(found, posteriors(net, photographs, [48]))
    assert capsys.readouterr().err.count(str(unfinished)) == 1
