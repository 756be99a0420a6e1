"""Opening data sets of every layout, and what is refused."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic import pixels, refusal, touch, write
from verydeep.datasets.dataset import Dataset, compare_classes, fingerprint, held_out, images_below, open_dataset
from verydeep.photographs.photograph import ImageError, read

META = Path(__file__).parents[3] / "shared/data/ilsvrc-meta"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def names(dataset):
    return [path.name for path in dataset.photographs]


# Dataset


def test_dataset_refuses_labels_that_do_not_fit():
    images = (pixels(0), pixels(1))
    assert len(Dataset("d", ("a", "b"), images, np.array([0, 1]))) == 2
    assert "2 photographs, but 1 labels" in refusal(Dataset, "d", ("a", "b"), images, np.array([0]))
    assert "label 2 of photograph 1" in refusal(Dataset, "d", ("a", "b"), images, np.array([0, 2]))
    assert "label -1 of photograph 0" in refusal(Dataset, "d", ("a", "b"), images, np.array([-1, 0]))


# Digits


def test_digits_are_split_without_shuffling():
    from sklearn.datasets import load_digits

    train, val = open_dataset("digits", "train"), open_dataset("digits", "val")
    assert (len(train), len(val)) == (1437, 360)
    assert (train.name, val.name) == ("digits/train", "digits/val")
    assert train.classes == val.classes == tuple("0123456789")
    given = load_digits()
    np.testing.assert_array_equal(np.concatenate([train.labels, val.labels]), given.target)
    assert train.labels.dtype == np.int64
    for dataset, start in ((train, 0), (val, 1437)):
        images = np.stack(dataset.photographs)
        assert images.shape[1:] == (8, 8, 3)
        assert images.dtype == np.uint8
        assert images.max() == 255
        assert (images == images[..., :1]).all()
        np.testing.assert_allclose(images[..., 0] / 255 * 16, given.images[start:][: len(dataset)], atol=0.04)


# Class folders


def test_another_split_is_refused(folder):
    unchecked = getattr(open_dataset, "__wrapped__", open_dataset)  # without the type checks
    for data in (folder, "digits"):
        assert "split is 'test'" in refusal(unchecked, data, "test")


def test_folders_are_read_in_the_order_of_code_points(folder):
    train, val = open_dataset(folder, "train"), open_dataset(str(folder), "val")
    assert train.name == "pets/train"
    assert train.classes == val.classes == ("Dog", "cat")
    assert names(train) == ["1.jpeg", "2.WebP", "a.JPG", "b.png"]
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.labels.dtype == np.int64
    assert names(val) == ["d.png", "c.png"]
    assert val.labels.tolist() == [0, 1]
    assert train.ignored == val.ignored == ()


def test_hidden_files_are_passed_over_and_others_listed(folder):
    touch(folder / "train/.DS_Store")
    touch(folder / "train/cat/._a.jpg")
    touch(folder / "train/.hidden/a.jpg")
    others = [
        touch(folder / "train/labels.csv"),
        write(folder / "train/loose.jpg"),
        touch(folder / "train/cat/notes.txt"),
    ]
    write(folder / "train/cat/more.jpg/x.jpg")
    train = open_dataset(folder, "train")
    assert names(train) == ["1.jpeg", "2.WebP", "a.JPG", "b.png"]
    assert set(train.ignored) == {*others, folder / "train/cat/more.jpg"}
    assert open_dataset(folder, "val").ignored == ()


def test_a_broken_link_is_a_photograph_that_cannot_be_read(folder):
    (folder / "train/cat/c.jpg").symlink_to(folder / "gone.jpg")
    train = open_dataset(folder, "train")
    assert names(train)[-1] == "c.jpg"
    with pytest.raises(ImageError, match="no such file"):
        read(train.photographs[-1])


@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_of_train_and_val_must_be_equal(folder, split):
    (folder / "val/cat").rename(folder / "val/cow")
    message = refusal(open_dataset, folder, split)
    assert 'val has "cow"' in message
    assert 'train has "cat"' in message
    assert "position 1" in message
    shutil.rmtree(folder / "val/cow")
    assert "val ends here" in refusal(open_dataset, folder, split)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("empty", ["train", "val"])
def test_a_class_without_images_is_refused_by_name(folder, split, empty):
    for path in (folder / empty / "cat").iterdir():
        path.unlink()
    touch(folder / empty / "cat/readme.txt")
    message = refusal(open_dataset, folder, split)
    assert f"{folder}/{empty}/cat: class cat has no images" in message


def test_a_folder_without_either_layout_is_refused_with_what_was_found(folder, tmp_path):
    message = refusal(open_dataset, tmp_path / "nowhere", "train")
    assert "nowhere: no such folder" in message
    assert '"digits"' in message
    (folder / "val").rename(folder / "validation")
    message = refusal(open_dataset, folder, "train")
    assert "has no folder val; it contains train/, validation/" in message
    assert "/val/<class>/*.jpg" in message
    assert "/val/*.JPEG" in message
    (folder / "val").mkdir()
    assert "neither class folders nor images; it contains nothing" in refusal(open_dataset, folder, "train")
    shutil.rmtree(folder / "train")
    for number in range(8):
        touch(folder / f"train/n0{number}.tar")
    message = refusal(open_dataset, folder, "train")
    assert "has no class folders; it contains n00.tar" in message
    assert "n05.tar and 2 more" in message


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert "train/cat: cannot be listed: Permission denied" in refusal(open_dataset, folder, "train")


def test_a_link_to_itself_is_a_photograph_that_cannot_be_read(folder):
    (folder / "train/cat/x.jpg").symlink_to("x.jpg")
    (folder / "train/loop").symlink_to("loop")
    train = open_dataset(folder, "train")
    assert names(train)[-1] == "x.jpg"
    assert train.ignored == (folder / "train/loop",)
    with pytest.raises(ImageError, match=r"x\.jpg: cannot be read"):
        read(train.photographs[-1])


def test_images_below_a_folder_are_counted(folder):
    for name in (
        "more/a.jpg",
        "more/b.PNG",
        "more/deep/c.webp",
        "more/notes.txt",
        "more/.hidden/d.jpg",
        "more/.e.jpg",
    ):
        touch(folder / "train/cat" / name)
    (folder / "train/cat/more/back").symlink_to(folder)
    assert images_below(folder / "train/cat/more") == 3
    assert open_dataset(folder, "train").ignored == (folder / "train/cat/more",)
    assert images_below(folder / "train/cat/a.JPG") == 0


@pytest.mark.parametrize(
    ("name", "needed"),
    [("validation", "val"), ("Val", "val"), ("valid", "val"), ("test", "val"), ("Training", "train")],
)
def test_a_folder_that_is_called_otherwise_is_pointed_out(folder, name, needed):
    (folder / needed).rename(folder / name)
    assert f"(did you mean {name}? Rename it to {needed})" in refusal(open_dataset, folder, "train")
    other = {"val": "train", "train": "val"}[needed]
    (folder / other).rename(folder / f"my {other}")
    assert f"did you mean {name}?" in refusal(open_dataset, folder, "val")


def test_validation_is_preferred_to_test_where_one_is_meant(folder):
    (folder / "val").rename(folder / "validation")
    (folder / "test").mkdir()
    message = refusal(open_dataset, folder, "train")
    assert "did you mean validation?" in message
    assert "test?" not in message


def test_val_alone_can_be_opened_to_test_on(folder):
    whole = open_dataset(folder, "val")
    shutil.rmtree(folder / "train")
    alone = open_dataset(folder, "val")
    assert (alone.classes, names(alone), alone.labels.tolist()) == (whole.classes, names(whole), [0, 1])
    assert "has no folder train; it contains val/" in refusal(open_dataset, folder, "train")


# One folder of class folders


@pytest.fixture
def flowers(tmp_path):
    """Two classes of ten and of four images, and no splits."""
    for name, count in (("rose", 10), ("aster", 4)):
        for number in range(count):
            touch(tmp_path / f"flowers/{name}/{number}.jpg")
    return tmp_path / "flowers"


def validation_of(root):
    train, val = (open_dataset(root, split) for split in ("train", "val"))
    assert train.classes == val.classes == ("aster", "rose")
    assert (train.name, val.name) == ("flowers/train", "flowers/val")
    both = [*train.photographs, *val.photographs]
    assert sorted(both) == sorted(root.glob("*/*.jpg"))
    for dataset in (train, val):
        assert [path.parent.name for path in dataset.photographs] == [dataset.classes[k] for k in dataset.labels]
    return [path.relative_to(root).as_posix() for path in val.photographs]


def test_a_folder_without_splits_is_split_by_class_and_the_split_written_down(flowers):
    val = validation_of(flowers)
    assert val == ["aster/0.jpg", "rose/3.jpg", "rose/4.jpg"], "every version must draw the same"
    written = json.loads((flowers / "split.json").read_text())
    assert written == {"seed": 0, "share": 0.2, "val": val}
    assert open_dataset(flowers, "val").ignored == ()
    assert open_dataset(flowers, "val").note == (
        f"flowers/val: 3 of 14 images; those for validation are listed in {flowers}/split.json"
    )
    for number in range(10, 30):
        touch(flowers / f"rose/{number}.jpg")
    assert validation_of(flowers) == val, "images added later are for training"
    (flowers / "rose/3.jpg").unlink()
    assert validation_of(flowers) == ["aster/0.jpg", "rose/4.jpg"]


def test_the_list_of_a_split_can_be_changed_by_hand(flowers):
    touch(flowers / "split.json", '{"val": ["rose/3.jpg", "aster/1.jpg"]}')
    assert validation_of(flowers) == ["aster/1.jpg", "rose/3.jpg"]
    touch(flowers / "split.json", '{"val": ["rose/3.jpg"]}')
    assert "split.json: leaves no image of class aster for val" in refusal(open_dataset, flowers, "val")
    touch(flowers / "split.json", json.dumps({"val": ["rose/3.jpg", *(f"aster/{k}.jpg" for k in range(4))]}))
    assert "leaves no image of class aster for train" in refusal(open_dataset, flowers, "train")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"val": "rose"}', '{"val": [1]}', "[" * 100_000, "\xff"])
def test_a_damaged_list_of_a_split_is_one_line(flowers, content):
    (flowers / "split.json").write_bytes(content.encode("latin-1"))
    assert "split.json: is not a list of validation images" in refusal(open_dataset, flowers, "train")


def test_a_folder_that_cannot_be_written_is_split_in_the_same_way(flowers, monkeypatch):
    expected = validation_of(flowers)
    (flowers / "split.json").unlink()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    assert validation_of(flowers) == expected
    assert not (flowers / "split.json").exists()
    assert "split.json cannot be written" in open_dataset(flowers, "val").note


def test_a_name_that_is_not_utf8_is_split_too(flowers):
    for number in range(10):
        touch(flowers / os.fsdecode(b"aster/\xe9%d.jpg" % number))
    val = validation_of(flowers)
    assert validation_of(flowers) == val


def test_a_class_of_one_image_cannot_be_split(flowers):
    touch(flowers / "tulip/1.jpg")
    assert "class tulip has too few images to hold some out (1)" in refusal(open_dataset, flowers, "train")
    shutil.rmtree(flowers / "tulip")
    (flowers / "tulip").mkdir()
    assert "class tulip has no images" in refusal(open_dataset, flowers, "train")


@pytest.mark.parametrize("name", ["Train", "validation", "test"])
def test_folders_that_are_called_like_splits_are_no_classes(flowers, name):
    (flowers / "rose").rename(flowers / name)
    assert "has no folder train" in refusal(open_dataset, flowers, "train")
    assert not (flowers / "split.json").exists()


# ILSVRC-2012

SYNSETS = {1: "n03", 2: "n01", 3: "n02"}  # the devkit's order is not the sorted one
INNER = {4: "n00"}


def write_meta(path):
    """As in the devkit: a column of structs, numbers as doubles, inner nodes after the classes."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    synsets = np.zeros((4, 1), [(name, object) for name in fields])
    for row, (number, wnid) in enumerate({**SYNSETS, **INNER}.items()):
        children = np.array([1.0, 2.0, 3.0]) if number in INNER else np.zeros((0, 0))
        synsets[row, 0] = (float(number), wnid, "words", "gloss", float(children.size), children, 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"synsets": synsets})


@pytest.fixture
def ilsvrc(tmp_path):
    root = tmp_path / "ilsvrc"
    for wnid in ("n01", "n02", "n03"):
        write(root / f"train/{wnid}/{wnid}_1.JPEG")
    for number in (4, 2, 1, 3):  # not in order
        write(root / f"val/ILSVRC2012_val_0000000{number}.JPEG")
    touch(root / "devkit/data" / TRUTH, "1\n2\n3\n1\n")
    write_meta(root / "devkit/data/meta.mat")
    return root


def test_ilsvrc_takes_ids_to_sorted_wnids_by_meta_mat(ilsvrc):
    touch(ilsvrc / "val/readme.txt")
    train, val = open_dataset(ilsvrc, "train"), open_dataset(ilsvrc, "val")
    assert train.classes == val.classes == ("n01", "n02", "n03")
    assert train.labels.tolist() == [0, 1, 2]
    assert names(val) == [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2, 3, 4)]
    assert val.labels.tolist() == [2, 0, 1, 2]
    assert val.labels.dtype == np.int64
    assert val.ignored == (ilsvrc / "val/readme.txt",)


@pytest.mark.parametrize("name", ["synset_words_devkit_order.txt", "synsets.txt"])
@pytest.mark.parametrize("place", ["", "devkit", "devkit/data", "ILSVRC2012_devkit_t12/data"])
def test_ilsvrc_takes_ids_to_sorted_wnids_by_text(ilsvrc, place, name):
    shutil.rmtree(ilsvrc / "devkit")
    touch(ilsvrc / place / TRUTH, "1\n2\n3\n1\n\n")
    touch(ilsvrc / place / name, "n03 kit fox, Vulpes\nn01\nn02 setter\n")
    assert open_dataset(ilsvrc, "val").labels.tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize("split", ["train", "val"])
def test_ilsvrc_without_its_devkit_is_refused(ilsvrc, split):
    (ilsvrc / "devkit/data/meta.mat").unlink()
    message = refusal(open_dataset, ilsvrc, split)
    assert "no file that maps its ids to classes" in message
    assert "meta.mat" in message
    (ilsvrc / "devkit/data" / TRUTH).unlink()
    message = refusal(open_dataset, ilsvrc, split)
    assert f"{TRUTH} is in none of {ilsvrc}, {ilsvrc}/devkit, " in message


def test_ilsvrc_with_a_damaged_meta_mat_is_refused(ilsvrc):
    meta = ilsvrc / "devkit/data/meta.mat"
    for damaged in (b"", meta.read_bytes()[:300], b"text " * 100):
        meta.write_bytes(damaged)
        assert f"{meta}: is not the devkit's list of synsets" in refusal(open_dataset, ilsvrc, "val")
    scipy.io.savemat(meta, {"other": 1})
    assert "is not the devkit's list of synsets" in refusal(open_dataset, ilsvrc, "val")


def test_ilsvrc_counts_must_agree(ilsvrc):
    touch(ilsvrc / "devkit/data" / TRUTH, "1\n2\n3\n")
    message = refusal(open_dataset, ilsvrc, "val")
    assert "has 4 images" in message
    assert "has 3 lines" in message


@pytest.mark.parametrize("wrong", ["4", "0", "-1", "n01", "1 2", "²"])
def test_ilsvrc_ids_must_be_classes(ilsvrc, wrong):
    touch(ilsvrc / "devkit/data" / TRUTH, f"1\n2\n{wrong}\n1\n")
    message = refusal(open_dataset, ilsvrc, "val")
    assert f'line 3 is "{wrong}"' in message
    assert "one of the 3 class ids" in message


def test_ilsvrc_classes_of_train_and_val_must_agree(ilsvrc):
    write(ilsvrc / "train/n99/a.JPEG")
    assert f"{ilsvrc}/train/n99: the devkit in" in refusal(open_dataset, ilsvrc, "train")
    shutil.rmtree(ilsvrc / "train/n99")
    touch(ilsvrc / "devkit/data" / TRUTH, "1\n2\n2\n1\n")
    assert "no image of class n02" in refusal(open_dataset, ilsvrc, "val")
    touch(ilsvrc / "devkit/data" / TRUTH, "1\n2\n3\n1\n")
    shutil.rmtree(ilsvrc / "train/n01")
    message = refusal(open_dataset, ilsvrc, "val")
    assert "ILSVRC2012_val_00000002.JPEG: its class is n01 (id 2), but train has no such folder" in message


def test_ilsvrc_can_be_tested_on_without_train(ilsvrc):
    whole = open_dataset(ilsvrc, "val")
    shutil.rmtree(ilsvrc / "train")
    alone = open_dataset(ilsvrc, "val")
    assert alone.classes == whole.classes
    assert alone.labels.tolist() == whole.labels.tolist()


def test_caffes_sorted_synsets_are_not_taken_for_the_devkits(ilsvrc):
    (ilsvrc / "devkit/data/meta.mat").unlink()
    touch(ilsvrc / "devkit/data/synsets.txt", "".join(f"n{number:08}\n" for number in range(1000)))
    assert "sorted order" in refusal(open_dataset, ilsvrc, "val")


@pytest.mark.skipif(not META.is_dir(), reason="the real lists of ILSVRC-2012 are not here")
def test_the_real_lists_of_ilsvrc(tmp_path):
    order = [line.split()[0] for line in (META / "synset_words_devkit_order.txt").read_text().splitlines()]
    ids = [int(line) for line in (META / TRUTH).read_text().split()]
    assert order[0] == "n02119789"  # kit fox
    assert ids[0] == 490
    root = tmp_path / "ilsvrc"
    for wnid in order:
        touch(root / f"train/{wnid}/{wnid}_1.JPEG")
    # The first validation images, up to the one that completes the classes.
    count = 1 + max(ids.index(number) for number in range(1, 1001))
    (root / "val").mkdir()
    for number in range(1, count + 1):
        os.link(root / "train/n02119789/n02119789_1.JPEG", root / f"val/ILSVRC2012_val_{number:08}.JPEG")
    touch(root / TRUTH, "\n".join(map(str, ids[:count])))
    shutil.copy(META / "synset_words_devkit_order.txt", root)
    val = open_dataset(root, "val")
    listed = [line.split()[0] for line in (META / "synset_words_sorted.txt").read_text().splitlines()]
    assert val.classes == tuple(listed)
    assert val.classes[val.labels[0]] == order[490 - 1]
    assert val.classes[val.labels[ids.index(1)]] == "n02119789"
    assert [val.classes[label] for label in val.labels] == [order[number - 1] for number in ids[:count]]


# Comparing classes


def test_compare_classes_says_where_they_first_differ():
    compare_classes(["a", "b"], ("a", "b"), "weights", "data")
    message = refusal(compare_classes, ["a", "b", "c"], ["a", "c"], "the weights", "pets/val")
    assert "the weights has 3 classes, pets/val has 2" in message
    assert 'at position 1 (counted from 0), where the weights has "b" and pets/val has "c"' in message
    message = refusal(compare_classes, ["a"], ["a", "b"], "the weights", "pets/val")
    assert 'at position 1 (counted from 0), where the weights ends here and pets/val has "b"' in message
    assert 'the weights has "a" and pets/val ends here' in refusal(
        compare_classes, ["a"], [], "the weights", "pets/val"
    )


def test_a_name_that_only_looks_the_same_is_told_apart():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for one, other in ((composed, decomposed), (decomposed, composed)):
        message = refusal(compare_classes, [one, "cafz", "dog"], ["cafz", other, "dog"], "val", "train")
        assert f'val has the class "{one}"' in message
        assert r"'caf\xe9'" in message
        assert r"'cafe\u0301'" in message
        assert "rename" in message
    compare_classes([composed], [composed], "val", "train")


# Fingerprint


def test_fingerprint_is_that_of_the_photographs(folder):
    train = open_dataset(folder, "train")
    first = fingerprint(train)
    assert len(first) == 64
    assert first == fingerprint(replace(train, name="other", labels=train.labels[::-1].copy()))
    assert first != fingerprint(replace(train, photographs=train.photographs[::-1]))
    assert first != fingerprint(open_dataset(folder, "val"))
    write(folder / "train/cat/b.png", 99)
    second = fingerprint(train)
    assert first != second
    (folder / "train/cat/b.png").unlink()
    assert len({first, second, fingerprint(train)}) == 3


# Holding out


def numbered(counts, order):
    """A data set whose photographs show their own row number, with labels in a given order."""
    labels = np.repeat(np.arange(len(counts)), counts)[order]
    images = tuple(np.full((1, 1, 3), row, np.uint8) for row in range(len(labels)))
    return Dataset("numbers", tuple(map(str, range(len(counts)))), images, labels)


def rows(dataset):
    return [int(image[0, 0, 0]) for image in dataset.photographs]


@settings(deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=5).flatmap(
        lambda counts: st.tuples(st.just(counts), st.permutations(range(sum(counts))))
    ),
    st.floats(0.01, 0.5),
)
def test_a_share_of_each_class_is_held_out_and_nothing_is_lost(case, share):
    whole = numbered(case[0], case[1])
    left, held = held_out(whole, share)
    assert sorted(rows(left) + rows(held)) == list(range(len(whole)))
    for part in (left, held):
        assert part.classes == whole.classes
        assert rows(part) == sorted(rows(part))  # in the order of the whole
        assert (part.labels == whole.labels[rows(part)]).all()
    for label, count in enumerate(case[0]):
        assert (held.labels == label).sum() == max(1, round(share * count))
    again = held_out(whole, share)
    assert [rows(part) for part in again] == [rows(left), rows(held)]


def test_which_images_are_held_out_is_known():
    """If a later version held out others, nets would be tested on images that some were trained on."""
    left, held = held_out(numbered([10, 6], range(16)), 0.2)
    assert rows(held) == [0, 9, 12]
    assert "20%" in held.name
    assert left.name != held.name != "numbers"


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    assert "between 0 and 1" in refusal(held_out, numbered([4, 4], range(8)), share)


def test_a_class_too_small_to_hold_out_of_is_named():
    message = refusal(held_out, numbered([4, 1], range(5)), 0.1)
    assert "class 1 has too few images to hold some out (1)" in message
    assert "class 0 has too few images to hold some out (2)" in refusal(held_out, numbered([2, 9], range(11)), 0.9)
