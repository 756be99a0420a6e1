"""Testing of trained nets: the stored passes, errors, several nets together, and what is refused."""

import copy
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from synthetic import refusal
from verydeep import weights
from verydeep.card import Card
from verydeep.computing import Computing
from verydeep.configurations import Architecture
from verydeep.distributed import Ranks
from verydeep.evaluation import batches as reading
from verydeep.evaluation import posteriors as passes_module
from verydeep.evaluation import store, testing
from verydeep.evaluation.batches import batches_of, sizes_of
from verydeep.evaluation.posteriors import one_pass, posteriors
from verydeep.evaluation.protocols import Pass, passes
from verydeep.evaluation.protocols import test_scale as scale_of
from verydeep.sealed import SEAL

QUIET = Computing(progress=False)


def run_of(net, path, **card):
    net = copy.copy(net)
    net.card = replace(net.card, **card)
    weights.save(net, path / weights.FILE_NAME)
    return str(path)


def results_of(sources, dataset, scales=(40,), method="dense", computing=QUIET, say=lambda line: None):
    setup = testing.Setup(dataset, sizes_of(dataset), Ranks(), computing, say)
    return testing.test(setup, [testing.tested(source) for source in sources], scales, method)


@pytest.fixture
def run(net, tmp_path):
    return run_of(net, tmp_path / "runs/a")


@pytest.fixture
def computed(monkeypatch):
    """The passes that were computed, as opposed to those that were already stored."""
    made = []

    def recorded(net, dataset, one, *rest):
        made.append((one.method, one.scale))
        return one_pass(net, dataset, one, *rest)

    monkeypatch.setattr(testing, "one_pass", recorded)
    return made


def stored_in(run):
    return sorted(os.listdir(os.path.join(run, "posteriors")))


def wrong_in_numpy(matrix, labels, k):
    return sum(label not in np.argsort(-row)[:k] for row, label in zip(matrix, labels, strict=True))


def test_errors_are_those_of_the_posteriors(net, run, photographs):
    matrix = posteriors(net, photographs, [32, 40], "both")
    # The net is right about half of the labels, so that neither error is 0% or 100%.
    labels = np.where(np.arange(10) % 2, matrix.argmax(1), matrix.argmin(1))
    (result,) = results_of([run], replace(photographs, labels=labels), (32, 40), "both")
    assert (result.top1.wrong, result.top1.images) == (wrong_in_numpy(matrix, labels, 1), 10) == (5, 10)
    assert (result.top5.wrong, result.top5.images) == (wrong_in_numpy(matrix, labels, 5), 10) == (5, 10)
    assert result.nets == ("A",)
    assert result.sources == (run,)
    assert result.protocols == ("dense & multi-crop, Q = 32, 40, with mirror images",)


def test_each_pass_is_stored_once_and_its_averages_need_no_other(run, photographs, computed):
    said = []
    (first,) = results_of([run], photographs, (32, 40), "both", say=said.append)
    assert Counter(computed) == {
        ("dense", 32): 1, ("dense", 40): 1, ("multi-crop", 32): 1, ("multi-crop", 40): 1,
    }  # fmt: skip
    assert not [line for line in said if "stored" in line]
    assert len(stored_in(run)) == 4
    computed.clear()
    (again,) = results_of([run], photographs, (32, 40), "both", say=said.append)
    assert again == first
    for method, scales in [("dense", (40, 32)), ("multi-crop", (40,)), ("dense", (32,))]:
        results_of([run], photographs, scales, method)
    assert not computed
    found = [line for line in said if "stored" in line]
    assert len(found) == 4
    assert all("already stored" in line and run in line for line in found)
    results_of([run], photographs, (32, 48))
    assert computed == [("dense", 48)]


def test_what_is_stored_is_the_matrix_of_the_pass(net, run, photographs):
    results_of([run], photographs)
    (name,) = stored_in(run)
    assert name.startswith("dense-Q40-")
    stored = store.load(Path(run) / "posteriors" / name)["posteriors"]
    np.testing.assert_array_equal(stored, posteriors(net, photographs, [40]))


def test_what_is_not_stored_is_told_without_a_pass(net, run, photographs, computed):
    def missing(source, computing=QUIET):
        setup = testing.Setup(photographs, sizes_of(photographs), Ranks(), computing)
        return testing.missing_passes(setup, testing.tested(source), planned)

    planned = passes("dense", [32, 40, 48])
    assert missing(run) == planned
    results_of([run], photographs, (32, 48))
    computed.clear()
    assert missing(run) == (Pass("dense", 40),)
    assert missing(run, Computing("bf16")) == planned
    assert missing(net) == planned  # passes of a net in memory are never stored
    assert not computed


def test_labels_may_change_without_another_pass(net, run, photographs, computed):
    matrix = posteriors(net, photographs, [40])
    (right,), (wrong,) = (
        results_of([run], replace(photographs, labels=labels)) for labels in (matrix.argmax(1), matrix.argmin(1))
    )
    assert len(computed) == 1
    assert (right.top1.wrong, wrong.top1.wrong) == (0, 10)


def change_weights(run, photographs, new_net):
    run_of(new_net(seed=5), Path(run))
    return photographs, QUIET


def change_an_image(run, photographs, new_net):
    path = photographs.photographs[3]
    path.write_bytes(photographs.photographs[7].read_bytes())
    return photographs, QUIET


def change_the_order(run, photographs, new_net):
    return replace(photographs, photographs=photographs.photographs[::-1]), QUIET


def change_the_precision(run, photographs, new_net):
    return photographs, replace(QUIET, precision="bf16")


def change_mirroring(run, photographs, new_net):
    run_of(weights.load(run), Path(run), flip=False)
    return photographs, QUIET


@pytest.mark.parametrize(
    "change", [change_weights, change_an_image, change_the_order, change_the_precision, change_mirroring]
)
def test_what_was_stored_of_something_else_is_not_taken(run, photographs, new_net, computed, change):
    results_of([run], photographs)
    photographs, computing = change(run, photographs, new_net)
    before = set(stored_in(run))
    results_of([run], photographs, computing=computing)
    assert len(computed) == 2
    (name,) = set(stored_in(run)) - before
    assert before < set(stored_in(run)), "earlier files are kept"
    kept = [store.load(Path(run) / "posteriors" / each)["posteriors"] for each in (name, *before)]
    assert np.abs(kept[0] - kept[1]).max() > 1e-4
    results_of([run], photographs, computing=computing)
    assert len(computed) == 2


def test_a_damaged_stored_matrix_is_made_anew(run, photographs, computed):
    (first,) = results_of([run], photographs)
    path = Path(run) / "posteriors" / stored_in(run)[0]
    path.write_bytes(path.read_bytes()[:-5])
    assert results_of([run], photographs) == (first,)
    assert len(computed) == 2


def test_a_weight_file_by_itself_stores_in_the_cache_folder(net, tmp_path, photographs, cache, computed):
    weights.save(net, tmp_path / "given" / "d.safetensors")
    for _ in range(2):
        results_of([str(tmp_path / "given" / "d.safetensors")], photographs)
    assert len(computed) == 1
    assert [path.name for path in (tmp_path / "given").iterdir()] == ["d.safetensors"]
    assert len(list((cache / "verydeep" / "posteriors").iterdir())) == 1


def test_an_interrupted_test_goes_on_and_cleans_up(net, run, photographs, monkeypatch):
    monkeypatch.setattr(passes_module, "SAVE_SECONDS", -1.0)
    sizes = sizes_of(photographs)
    last = photographs.photographs[batches_of(photographs, Pass("dense", 40), 32)[-1][-1]]
    read, rescale = [], reading.rescale

    def break_down(photograph, scale, rescaling):
        read.append(photograph)
        if photograph == last and len(read) <= len(photographs):
            raise KeyboardInterrupt
        return rescale(photograph, scale, rescaling)

    monkeypatch.setattr(reading, "rescale", break_down)
    arguments = (testing.Setup(photographs, sizes, Ranks(), QUIET), [testing.tested(run)], (40,), "dense")
    with pytest.raises(KeyboardInterrupt):
        testing.test(*arguments)
    (unfinished,) = stored_in(run)
    assert unfinished.endswith(".0-of-1.unfinished")
    # One is left from a test on more ranks and is removed; the other is from another pass and is kept.
    folder = Path(run) / "posteriors"
    (folder / unfinished.replace("0-of-1", "1-of-2")).write_bytes(b"")
    (folder / "dense-Q48-0.0-of-1.unfinished").write_bytes(b"")
    before = len(read)
    testing.test(*arguments)
    assert before < len(photographs) + 1
    assert 1 <= len(read) - before < len(photographs)
    assert [each for each in stored_in(run) if "Q40" in each] == [
        unfinished.replace("0-of-1.unfinished", "safetensors")
    ]
    assert "dense-Q48-0.0-of-1.unfinished" in stored_in(run)
    matrix = store.load(folder / unfinished.replace("0-of-1.unfinished", "safetensors"))["posteriors"]
    np.testing.assert_allclose(matrix, posteriors(net, photographs, [40]), rtol=1e-4, atol=1e-6)


def test_a_matrix_that_cannot_be_stored_is_said_and_the_result_is_given_all_the_same(run, photographs):
    (expected,) = results_of([run], photographs)
    for path in (Path(run) / "posteriors").iterdir():
        path.unlink()
    (Path(run) / "posteriors").rmdir()
    (Path(run) / "posteriors").write_text("in the way")
    said = []
    assert results_of([run], photographs, say=said.append) == (expected,)
    assert ["not stored" in line for line in said if "stored" in line] == [True]


# Several nets


def test_several_nets_are_each_and_then_together_tested(new_net, photographs, tmp_path):
    nets = [new_net("A"), new_net("B", seed=1), new_net("B-5x5", seed=2)]
    runs = [run_of(net, tmp_path / f"{i}", training_scale=(32 + 32 * i,) * 2) for i, net in enumerate(nets)]
    matrices = [posteriors(net, photographs, [32 + 32 * i]).astype(np.float64) for i, net in enumerate(nets)]
    together = sum(matrices) / 3
    # The answers of the three together. No net alone gives all of them.
    labels = together.argmax(1)
    assert all((matrix.argmax(1) != labels).any() for matrix in matrices)
    results = results_of(runs, replace(photographs, labels=labels), scales=())
    assert len(results) == 4
    for matrix, result in zip([*matrices, together], results, strict=True):
        assert result.top1.wrong == wrong_in_numpy(matrix, labels, 1)
        assert result.top5.wrong == wrong_in_numpy(matrix, labels, 5)
    assert results[3].top1.wrong == 0
    assert results[3].nets == ("A", "B", "B-5x5")
    assert results[3].sources == tuple(runs)
    assert results[3].protocols == tuple(f"dense, Q = {scale}, with mirror images" for scale in (32, 64, 96))
    assert [result.nets for result in results[:3]] == [("A",), ("B",), ("B-5x5",)]


def test_ranks_with_a_common_disk_find_each_matrix_once(new_net, photographs, tmp_path, computed, on_ranks):
    """One matrix is stored, the other computed. If each rank added what it finds, the first would weigh more."""
    nets = [new_net("A"), new_net("B", seed=3)]
    runs = [run_of(net, tmp_path / str(i)) for i, net in enumerate(nets)]
    first, second = (posteriors(net, photographs, [40]).astype(np.float64) for net in nets)
    labels = (first + second).argmax(1)
    assert ((2 * first + second).argmax(1) != labels).any()
    dataset, sizes = replace(photographs, labels=labels), sizes_of(photographs)
    results_of(runs[:1], dataset)
    computed.clear()
    nets = [testing.tested(run) for run in runs]
    for made in (2, 0):  # each of the two ranks computes a half
        found = on_ranks(
            2, lambda ranks: testing.test(testing.Setup(dataset, sizes, ranks, QUIET), nets, (40,), "dense")
        )
        assert found[0] == found[1]
        assert found[0][2].top1.wrong == 0
        assert len(computed) == made
        computed.clear()
    assert len(stored_in(runs[0])) == len(stored_in(runs[1])) == 1


def test_one_net_has_one_result(run, photographs):
    assert len(results_of([run], photographs)) == 1


# The card


@pytest.mark.parametrize(
    ("training_scale", "scale"), [((70, 70), 64), ((36, 64), 64), ((64, 129), 96), (None, 64)]
)
def test_the_default_scale_is_s_or_the_middle_of_its_range(
    net, tmp_path, photographs, training_scale, scale, computed
):
    """A net of unknown S is assumed to be trained at S = crop + 32, as 256 is for 224."""
    run = run_of(net, tmp_path / "run", training_scale=training_scale)
    (result,) = results_of([run], photographs, scales=())
    assert computed == [("dense", scale)]
    assert result.protocols == (f"dense, Q = {scale}, with mirror images",)


def test_the_scales_of_the_paper():
    def card(low, high, crop=224):
        return Card(Architecture("D", crop=crop), training_scale=(low, high))

    assert scale_of(card(256, 256)) == 256
    assert scale_of(card(384, 384)) == 384
    assert scale_of(card(256, 512)) == 384


def test_the_default_scale_of_a_score_map_leaves_nothing_out():
    card = Card(Architecture("D", crop=64), training_scale=(73, 73))
    scales = {"dense": 64, "both": 64, "windows": 64, "multi-crop": 73, "centre-crop": 73}
    assert {method: scale_of(card, method) for method in scales} == scales


def test_a_net_trained_without_mirror_images_is_tested_without(net, tmp_path, photographs):
    run = run_of(net, tmp_path / "run", flip=False)
    (result,) = results_of([run], photographs)
    assert result.protocols == ("dense, Q = 40, no mirror images",)
    matrix = store.load(tmp_path / "run" / "posteriors" / stored_in(run)[0])["posteriors"]
    np.testing.assert_array_equal(matrix, posteriors(net, photographs, [40], flip=False))


# What is refused


def test_other_classes_are_refused_with_the_first_difference(new_net, tmp_path, photographs):
    run = run_of(new_net(classes=("ant", "bee", "cow", "dog", "elk", "fox", "gnu")), tmp_path / "run")
    message = refusal(results_of, [run], photographs)
    assert all(word in message for word in ("zoo/val", run, "position 2", '"cat"', '"cow"'))


@pytest.mark.parametrize("count", [6, 8])
def test_another_number_of_unnamed_classes_is_refused(new_net, tmp_path, photographs, count):
    message = refusal(results_of, [run_of(new_net(classes=count), tmp_path / "run")], photographs)
    assert "7 classes" in message
    assert f"has {count}" in message


def test_as_many_unnamed_classes_will_do(new_net, net, tmp_path, photographs):
    run = run_of(new_net(classes=7), tmp_path / "run")
    assert (
        results_of([run], photographs)[0].top1
        == results_of([run_of(net, tmp_path / "named")], photographs)[0].top1
    )


@pytest.mark.parametrize(
    ("scales", "method", "words"),
    [((40, 31), "dense", "31 pixels"), ((40, 40), "dense", "each once"), ((40,), "all", "'all'")],
)
def test_wrong_protocols_are_refused_before_any_work(run, photographs, computed, scales, method, words):
    assert words in refusal(results_of, [run], photographs, scales, method)
    assert not computed


def test_all_nets_are_looked_at_before_any_is_tested(run, new_net, tmp_path, photographs, computed):
    other = run_of(new_net(classes=("x", "y")), tmp_path / "other")
    refusal(results_of, [run, other], photographs)
    refusal(results_of, [run, str(tmp_path / "nothing")], photographs)
    assert not computed


def test_weights_that_are_not_finite_are_refused_by_name(net, tmp_path, photographs):
    broken = weights.ConvNet(net.architecture, net.class_names)
    with torch.no_grad():
        broken.fc8.bias[2] = float("nan")
    run = run_of(net, tmp_path / "run")
    tensors = {name: tensor.contiguous() for name, tensor in broken.state_dict().items()}
    with safe_open(tmp_path / "run" / weights.FILE_NAME, "pt") as file:
        card = {name: text for name, text in file.metadata().items() if name != SEAL}
        save_file(tensors, tmp_path / "run" / weights.FILE_NAME, card)  # without a digest, as once written
    assert "fc8.bias" in refusal(results_of, [run], photographs)


@pytest.mark.parametrize(
    ("device", "precision", "name"),
    [
        ("cpu", "fp32", "dense-Q256-8e7fda12f7682bce.safetensors"),
        ("cpu", "bf16", "dense-Q256-5955e4cea03e8d57.safetensors"),
    ],
)
def test_what_was_stored_on_a_cpu_is_found_by_later_versions(
    net, run, photographs, monkeypatch, device, precision, name
):
    """These names are those of version 0.3 before it had the kind of device in them."""
    assert stored_name(net, run, photographs, monkeypatch, device, precision) == name


def stored_name(net, run, photographs, monkeypatch, device, precision):
    monkeypatch.setattr(testing, "digest", lambda file: "a" * 64)
    monkeypatch.setattr(testing, "fingerprint", lambda dataset: "b" * 16)
    setup = testing.Setup(
        photographs, sizes_of(photographs), Ranks(device=torch.device(device)), Computing(precision)
    )
    taken = []
    monkeypatch.setattr(Path, "exists", lambda path: taken.append(path.name) or False)
    assert testing.missing_passes(setup, testing.tested(run), [Pass("dense", 256)])
    return taken[-1]


def test_a_gpu_and_a_cpu_store_separately(net, run, photographs, monkeypatch):
    devices, precisions = ("cpu", "cuda", "cuda:1", "mps"), ("fp32", "tf32", "bf16")
    ways = [(device, precision) for device in devices for precision in precisions]
    names = {}
    for device, precision in ways:
        with monkeypatch.context() as patch:
            names[device, precision] = stored_name(net, run, photographs, patch, device, precision)
    assert len(set(names.values())) == 9, "the number of a GPU does not count"
    assert names["cuda", "fp32"] == names["cuda:1", "fp32"]
