"""Transfer from photographs to a result, and the classifier that is saved with its net."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from sklearn.svm import LinearSVC

import verydeep
from synthetic import refusal, touch
from transfer_sets import COLOURS, actions, caltech, memory, net_of, picture, voc, write_picture
from verydeep import weights
from verydeep.experiments.transfer_pages import write_curve
from verydeep.linear import Description, LinearClassifier
from verydeep.transfer import described, measured, open_transfer_data, save_classifier, transfer
from verydeep.transfer.baselines import raw_pixels
from verydeep.transfer.classifier import COSTS, chosen, fitted
from verydeep.transfer.measures import by_class, mean
from verydeep.transfer.neighbours import draw_neighbours, neighbours
from verydeep.transfer.paper import ACTIONS, TABLE_11, TABLE_12, printed, printed_for
from verydeep.transfer.procedure import curve_splits, learning_curve, splits_of


def test_the_classifiers_are_scikit_learns_on_each_class():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 9)).astype(np.float32)
    labels = np.where(vectors[:, :3] + 0.3 * random.normal(size=(60, 3)) > 0, 1, -1).astype(np.int8)
    labels[5, 1] = 0
    model = fitted(vectors, labels, 2.0)
    for k in range(3):
        rows = np.flatnonzero(labels[:, k])
        machine = LinearSVC(C=2.0, dual="auto", random_state=0).fit(vectors[rows], labels[rows, k])
        expected = machine.decision_function(vectors)
        np.testing.assert_allclose(model.scores(vectors)[:, k], expected, atol=1e-3)


def test_a_class_with_only_one_sign_has_a_constant_score():
    vectors = np.eye(3, dtype=np.float32)
    model = fitted(vectors, np.array([[1, -1], [1, 0], [1, -1]], np.int8), 1.0)
    assert model.scores(vectors).tolist() == [[1, -1]] * 3


def test_c_is_chosen_by_the_measure_on_a_held_out_fifth():
    random = np.random.default_rng(0)
    own = np.arange(100) % 2
    vectors = random.normal(size=(100, 40)).astype(np.float32)
    vectors[:, 0] += np.where(own, 0.6, -0.6)
    labels = np.where(np.eye(2)[own] > 0, 1, -1).astype(np.int8)
    for measure in ("class-recall", "ap-area"):
        found = chosen(measure, vectors, labels, range(100))
        assert len(found.held_out) == len(COSTS)
        assert found.held_out[COSTS.index(found.cost)] == max(found.held_out)
    assert chosen("class-recall", vectors[:2], labels[:2], range(2)).held_out == ()
    apart = np.where(labels > 0, 1, -1).astype(np.float32)  # every C is right
    assert chosen("class-recall", apart, labels, range(100)).cost == COSTS[len(COSTS) // 2]


def test_caltech_from_photographs_to_a_result(tmp_path):
    root = caltech(tmp_path / "caltech", 10)
    result = transfer(net_of(), root, training_images=5, scales=[32, 64])
    assert (result.data, result.nets, result.measure) == ("caltech", ("A",), "class-recall")
    assert [split.number for split in result.splits] == [0, 1, 2]
    assert {(split.training_images, split.test_images) for split in result.splits} == {(15, 15)}
    assert result.value == pytest.approx(np.mean([split.value for split in result.splits]))
    assert result.deviation == pytest.approx(np.std([split.value for split in result.splits], ddof=1))
    assert result.value > 0.7, "even a random net tells red from green"
    low, high = result.interval
    assert low <= result.value <= high
    again = transfer(net_of(), root, training_images=5, scales=[32, 64])
    assert again == result
    assert str(result).startswith(
        "caltech, net A: relu7, Q = 32, 64, stacked, 5 training images per class: mean class"
    )
    assert json.dumps(result.splits[0].by_class)


def test_voc_from_photographs_to_a_result(tmp_path):
    result = transfer(net_of(), voc(tmp_path / "VOC2007"), scales=[32])
    assert result.measure == "ap-11"
    (split,) = result.splits
    assert (split.training_images, split.test_images) == (14, 8)
    assert result.deviation is None
    assert result.value == pytest.approx(np.mean(split.by_class))
    assert result.value > 0.6
    assert result.training_images is None
    assert "mean average precision, 11 points" in str(result)


def test_actions_use_the_box_of_the_person(tmp_path):
    data = open_transfer_data(actions(tmp_path / "VOC2012", 12), "actions")
    both, whole = (transfer(net_of(), data, scales=[32], boxes=boxes) for boxes in (True, False))
    assert both.value > whole.value, "without the box, both people in a photograph look the same"
    assert both.protocol == "net A: relu7, Q = 32, whole image and box"


def test_an_official_split_can_have_fewer_training_images():
    parts = {"train": np.concatenate([np.arange(6) + 8 * k for k in range(3)])}
    parts["val"] = np.setdiff1d(np.arange(24), parts["train"])
    data = memory(8, parts=parts)
    found = described(net_of(), data, scales=[32])
    assert [split.training_images for split in measured(found).splits] == [18]
    few = measured(found, training_images=2)
    assert [split.training_images for split in few.splits] == [6, 6, 6]
    assert [split.test_images for split in few.splits] == [6, 6, 6]
    assert "measured once" in refusal(measured, found, splits=2)


def test_a_learning_curve_is_measured_on_the_same_test_images(tmp_path):
    data = memory(12)
    found = described(net_of(), data, scales=[32])
    results = learning_curve(found, (1, 3, 6), splits=2)
    assert [result.training_images for result in results] == [1, 3, 6]
    splits = curve_splits(data, (1, 3, 6), 2)
    assert all((one.test == other.test).all() for each in zip(*splits, strict=True) for one, other in [each[:2]])
    assert results[0].splits[0].held_out == (), "one image per class leaves none to hold out"
    write_curve(results, tmp_path / "curve.svg")
    text = (tmp_path / "curve.svg").read_text()
    assert text.startswith("<svg")
    assert "training images per class" in text
    assert ">6</text>" in text
    assert "must end in .svg" in refusal(write_curve, results, tmp_path / "curve.png")


def test_numbers_that_make_no_sense_are_refused_before_any_work(tmp_path):
    data = open_transfer_data(voc(tmp_path / "VOC2007"))
    assert "exactly one class each" in refusal(transfer, "no net", data, training_images=5)
    assert "blue has 8 photographs" in refusal(transfer, "no net", memory(8))
    assert "at least 1 of each" in refusal(transfer, "no net", memory(8), training_images=0)
    assert "at least 1 of each" in refusal(transfer, "no net", memory(8), training_images=5, test_images=0)
    official = memory(8, parts={"train": np.arange(12) * 2, "val": np.arange(12) * 2 + 1})
    assert "use at least 1" in refusal(transfer, "no net", official, training_images=0)


def test_the_saved_classifier_predicts_what_was_measured(tmp_path):
    root = caltech(tmp_path / "caltech", 10)
    weights.save(net_of(), tmp_path / "net.safetensors")
    data = open_transfer_data(root)
    found = described(tmp_path / "net.safetensors", data, scales=[32, 64])
    result = measured(found, training_images=5)
    split = splits_of(data, None, 5, 50)[0]
    path = tmp_path / "colours.safetensors"
    save_classifier(tmp_path / "net.safetensors", found, split, result.splits[0].cost, path)

    net = verydeep.load(path)
    assert net.classifier.classes == tuple(COLOURS)
    assert net.classifier.description == Description("relu7", (32, 64), "stack")
    assert net.classifier.provenance["value"] == pytest.approx(result.splits[0].value)
    assert net.card.names == tuple(f"class {number}" for number in range(5)), "its own classes are still there"
    tested = [data.photographs[row] for row in split.test.tolist()]
    predictions = verydeep.predict(path, tested, top=3)
    scores = np.array([[each.scores[each.classes.index(name)] for name in data.classes] for each in predictions])
    assert mean(by_class("class-recall", scores, data.labels[split.test])) == pytest.approx(result.splits[0].value)
    assert predictions[0].posteriors == ()
    assert predictions[0].scores == tuple(sorted(predictions[0].scores, reverse=True))
    assert "%" not in str(predictions[0])

    weights.save(net, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes(), "it stays with the net"
    pixels = picture(["red"], 5)
    both = [verydeep.predict(each, [pixels])[0].scores for each in (path, net)]
    assert both[0] == both[1]
    assert "leave out scales and method" in refusal(verydeep.predict, net, [pixels], [32])
    assert "leave out scales and method" in refusal(verydeep.predict, net, [pixels], None, "multi-crop")
    assert verydeep.extract(net, [pixels], ["fc7"]).layers["fc7"].shape == (1, 16), "it is still a net"


def test_what_does_not_fit_into_a_weight_file_is_not_saved(tmp_path):
    data = memory(8)
    nets = [net_of(), net_of("B", 1)]
    found = described(nets, data, scales=[32])
    split = splits_of(data, 1, 4, 50)[0]
    message = refusal(save_classifier, nets[0], found, split, 1.0, tmp_path / "a.safetensors")
    assert "a weight file holds one net, and 2 are given" in message
    boxed = described(nets[0], open_transfer_data(actions(tmp_path / "VOC2012"), "actions"), scales=[32])
    message = refusal(save_classifier, nets[0], boxed, split, 1.0, tmp_path / "a.safetensors")
    assert "a person's box for each photograph" in message
    assert not (tmp_path / "a.safetensors").exists()


def classifier(**fields):
    given = {
        "classes": ("a", "b"),
        "description": Description("relu7", (32, 64), "stack"),
        "weight": np.ones((2, 32), np.float32),
        "bias": np.zeros(2, np.float32),
    }
    return LinearClassifier(**given | fields)


def test_a_classifier_must_fit_its_net(tmp_path):
    net = net_of()
    net.classifier = classifier()
    weights.save(net, tmp_path / "a.safetensors")
    for wrong, fault in (
        (classifier(description=Description("relu7", (32,), "stack")), "takes descriptors of 32 values"),
        (classifier(description=Description("fc9", (32, 64), "stack")), "no layer 'fc9'"),
        (classifier(provenance={"a": math.nan}), "provenance cannot be written"),
    ):
        net.classifier = wrong
        assert fault in refusal(weights.save, net, tmp_path / "a.safetensors")
    assert weights.load(tmp_path / "a.safetensors").classifier is not None, "the file that was there is kept"
    assert "one row and one value per class" in refusal(classifier, classes=("a",))
    assert "not finite" in refusal(classifier, bias=np.full(2, np.nan, np.float32))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda text: "[1]", "cannot be read"),
        (lambda text: "{}", "has no classes"),
        (lambda text: text.replace("stack", "sum"), "cannot be read"),
        (lambda text: text.replace("[32, 64]", "[32]"), "takes descriptors of 32 values"),
        (lambda text: text.replace('["a", "b"]', '["a"]'), "one row and one value per class"),
        (lambda text: "[" * 100_000, "cannot be read"),
    ],
)
def test_a_file_with_a_wrong_classifier_is_refused(tmp_path, change, fault):
    from verydeep.sealed import write_arrays

    net = net_of()
    net.classifier = classifier()
    content = weights.Content.of(net)
    metadata = {weights.CARD: content.header, "classifier": change(content.classifier["classifier"])}
    write_arrays(tmp_path / "a.safetensors", content.arrays, metadata)
    message = refusal(weights.load, tmp_path / "a.safetensors")
    assert "a.safetensors: " in message
    assert fault in message


def test_a_file_whose_classifier_lacks_its_settings_is_refused(tmp_path):
    from verydeep.sealed import write_arrays

    net = net_of()
    net.classifier = classifier()
    content = weights.Content.of(net)
    write_arrays(tmp_path / "a.safetensors", content.arrays, {weights.CARD: content.header})
    assert "classifier.bias" in refusal(weights.load, tmp_path / "a.safetensors")
    weights.save(net, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert "classifier.weight" in file.keys()  # noqa: SIM118


def test_the_nearest_neighbours_as_a_picture(tmp_path):
    data = memory(8)
    found = described(net_of(), data, scales=[32])
    split = splits_of(data, 1, 5, 50)[0]
    query = int(split.test[0])
    near = neighbours(found, split, query, 4)
    cosines = found.vectors[split.train] @ found.vectors[query]
    assert [each.cosine for each in near] == pytest.approx(sorted(cosines.tolist(), reverse=True)[:4])
    own = data.labels.argmax(1)
    assert [each.right for each in near] == [own[each.row] == own[query] for each in near]
    draw_neighbours(found, split, tmp_path / "near.png", queries=3)
    with Image.open(tmp_path / "near.png") as drawn:
        assert drawn.width > 7 * 120
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(10**6)}
    assert (40, 130, 70) in colours
    assert "must end in .png" in refusal(draw_neighbours, found, split, tmp_path / "near.svg")


def test_raw_pixels_are_a_baseline():
    data = memory(8)
    found = raw_pixels(data, progress=False)
    assert found.vectors.shape == (24, 3072)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-5)
    result = measured(found, training_images=5)
    assert (result.nets, result.sources) == (("none",), ("raw pixels",))


def test_tables_11_and_12_are_the_papers():
    assert [row.method for row in TABLE_11 if row.nets][-1] == "VGG Net-D & Net-E"
    assert str(printed("Caltech-101", ("E", "D"))) == "92.7 ± 0.5"
    assert printed("VOC-2007", ("D",)).value == printed("VOC-2007", ("E",)).value == 89.3
    assert printed(ACTIONS, ("D", "E"), boxes=True).value == 84.0
    assert printed(ACTIONS, ("D", "E")).value == 79.2
    assert printed("VOC-2012", ("A",)) is None
    assert len(TABLE_12) == 5
    assert max(row.printed["VOC-2007"].value for row in TABLE_11 if "VOC-2007" in row.printed) == 89.7


def test_the_papers_number_is_found_by_the_name_of_the_data_set(tmp_path):
    result = transfer(net_of("D", fully_connected=8), voc(tmp_path / "VOC2007"), scales=[32])
    assert printed_for(result).value == 89.3
    assert printed_for(transfer(net_of(), voc(tmp_path / "VOC2007"), scales=[32])) is None


def test_a_table_without_split_is_split_at_random(tmp_path):
    lines = ["file,classes"]
    for number in range(30):
        classes = [("red",), ("green",), ("red", "blue"), ("blue",), ()][number % 5]
        write_picture(tmp_path / f"{number}.jpg", classes, number)
        lines.append(f"{number}.jpg,{';'.join(classes)}")
    result = transfer(net_of(), touch(tmp_path / "a.csv", "\n".join(lines)), scales=[32])
    assert (result.measure, len(result.splits)) == ("ap-area", 3)
    assert all(4 <= split.test_images <= 7 for split in result.splits)
