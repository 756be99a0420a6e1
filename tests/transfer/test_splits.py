"""Random and official splits, and the held-out fifth."""

import numpy as np

from synthetic import refusal
from transfer_sets import memory, voc
from verydeep.transfer import TransferData, open_transfer_data
from verydeep.transfer.splits import held_out, official_split, random_splits


def test_random_splits_follow_the_protocol_of_caltech():
    data = memory(images=12)
    own = data.labels.argmax(1)
    splits = random_splits(data, 3, 5, 4)
    assert [split.number for split in splits] == [0, 1, 2]
    for split in splits:
        assert np.bincount(own[split.train]).tolist() == [5, 5, 5]
        assert np.bincount(own[split.test]).tolist() == [4, 4, 4]
        assert not set(split.train.tolist()) & set(split.test.tolist())
    assert set(splits[0].train.tolist()) != set(splits[1].train.tolist())
    again = random_splits(data, 3, 5, 4)
    assert all((one.train == other.train).all() for one, other in zip(splits, again, strict=True))
    assert np.bincount(own[random_splits(data, 1, 5, None)[0].test]).tolist() == [7, 7, 7]
    other = random_splits(data, 1, 5, 4, seed=1)[0]
    assert other.train.tolist() != splits[0].train.tolist()


def test_fewer_training_images_are_some_of_the_same_and_the_test_images_stay():
    data = memory(images=12)
    (split,) = random_splits(data, 1, 6, 4)
    fewer = split.fewer(data, 2)
    assert set(fewer.train.tolist()) < set(split.train.tolist())
    assert np.bincount(data.labels[fewer.train].argmax(1)).tolist() == [2, 2, 2]
    assert (fewer.test == split.test).all()
    assert "class blue has 6 training images, fewer than 7" in refusal(split.fewer, data, 7)


def test_a_class_with_too_few_photographs_is_named():
    data = memory(images=5)
    assert "class blue has 5 photographs" in refusal(random_splits, data, 1, 5, 4)
    assert "use at most 4 training images" in refusal(random_splits, data, 1, 30, 4)
    assert "at least 1 of each" in refusal(random_splits, data, 0, 5, 4)


def test_the_official_split_trains_on_train_and_val_if_test_has_labels(tmp_path):
    data = open_transfer_data(voc(tmp_path / "VOC2007"))
    split = official_split(data)
    assert sorted(split.train.tolist()) == list(range(14))
    assert split.test.tolist() == list(range(14, 22))
    assert "do not have exactly one class each" in refusal(split.fewer, data, 1)
    without = open_transfer_data(voc(tmp_path / "VOC2012", ("train", "val")))
    split = official_split(without)
    assert (len(split.train), len(split.test)) == (10, 4)
    assert official_split(memory()) is None
    assert "has only train" in refusal(official_split, memory(parts={"train": np.arange(24)}))
    rows = np.arange(24)
    assert "class blue has no training" in refusal(
        official_split, memory(parts={"train": rows[8:], "val": rows[:8]})
    )


def test_a_fifth_of_each_class_is_held_out():
    data = memory(images=10)
    kept, held = held_out(data.labels, range(30))
    assert np.bincount(data.labels[held].argmax(1)).tolist() == [2, 2, 2]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(30))
    kept, held = held_out(data.labels[::10], range(3))
    assert (len(kept), len(held)) == (3, 0), "the only photograph of a class is not held out"


def test_a_photograph_counts_for_its_rarest_class():
    labels = np.full((25, 2), -1, np.int8)
    labels[:, 0] = 1
    labels[:5, 1] = 1
    _, held = held_out(labels, range(25))
    assert (labels[held, 1] == 1).sum() == 1
    assert len(held) == 5


def test_people_of_one_photograph_stay_together():
    labels = np.where(np.arange(40)[:, None] % 2 == np.arange(2), 1, -1).astype(np.int8)
    photographs = [number // 2 for number in range(40)]
    _, held = held_out(labels, photographs)
    counts = np.bincount([photographs[row] for row in held], minlength=20)
    assert sorted(set(counts.tolist())) == [0, 2]
    assert len(held) == 8


def test_without_a_split_and_with_several_classes_a_fifth_is_tested():
    labels = np.where(np.random.default_rng(0).random((50, 3)) < 0.4, 1, -1).astype(np.int8)
    data = TransferData("a", ("b", "c", "d"), memory(images=17).photographs[:50], labels, "ap-area")
    splits = random_splits(data, 2)
    assert all(len(split.test) in range(8, 14) and len(split.train) + len(split.test) == 50 for split in splits)
    assert splits[0].test.tolist() != splits[1].test.tolist()
