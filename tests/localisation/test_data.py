"""Training and validation photographs with boxes: from the annotations, held out, or made up."""

import numpy as np
import pytest
from PIL import Image

from boxed import write_boxed
from synthetic import refusal
from verydeep.localisation.data import DIGITS, digest_of, of_photographs, open_boxes

HEAD = "file,x0,y0,x1,y1,class,split\n"


@pytest.fixture
def folder(tmp_path):
    for name in "abcdefghij":
        Image.new("RGB", (40, 30), "grey").save(tmp_path / f"{name}.jpg")
    return tmp_path


def written(folder, text):
    (folder / "boxes.csv").write_text(text)
    return folder / "boxes.csv"


def test_a_column_names_the_split_and_both_have_all_classes(folder):
    rows = "a.jpg,1,2,3,4,cat,train\na.jpg,5,6,7,8,cat,train\nc.jpg,1,2,3,4,dog,train\nb.jpg,1,2,3,4,dog,val\n"
    found = open_boxes(written(folder, HEAD + rows))
    assert found.train.dataset.classes == found.val.dataset.classes == ("cat", "dog")
    assert [path.name for path in found.train.dataset.photographs] == ["a.jpg", "c.jpg"]
    assert found.train.boxes[0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert found.val.dataset.labels.tolist() == [1]
    assert found.place == str(folder / "boxes.csv")


def test_without_that_column_a_fifth_of_each_class_is_held_out_the_same_every_time(folder):
    rows = "".join(
        f"{name}.jpg,{number},2,30,4,{'cat' if number < 5 else 'dog'}\n"
        for number, name in enumerate("abcdefghij")
    )
    file = written(folder, HEAD.replace(",split", "") + rows)
    one, again = open_boxes(file), open_boxes(file)
    assert [np.bincount(each.dataset.labels).tolist() for each in (one.train, one.val)] == [[4, 4], [1, 1]]
    assert one.val.dataset.photographs == again.val.dataset.photographs
    for part in (one.train, one.val):
        for path, boxes in zip(part.dataset.photographs, part.boxes, strict=True):
            assert boxes.tolist() == [["abcdefghij".index(path.stem), 2, 30, 4]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a.jpg,1,2,3,4,cat,test\n", "line 2: split is 'test'; give train or val"),
        ("a.jpg,1,2,3,4,cat,\n", "line 2: split is ''; give train or val"),
        ("a.jpg,1,2,3,4,cat,train\na.jpg,1,2,3,4,cat,val\n", "line 3: split is 'val', but 'train' at"),
        ("a.jpg,1,2,3,4,cat,train\nb.jpg,1,2,3,4,cta,val\n", "b.jpg: its class 'cta' has no training photograph"),
        ("a.jpg,1,2,3,4,cat,train\n", "has no photographs of the split val"),
    ],
)
def test_a_wrong_split_is_named(folder, rows, said):
    assert said in refusal(open_boxes, written(folder, HEAD + rows))


def test_a_class_that_is_too_small_to_hold_some_out_is_named(folder):
    file = written(folder, HEAD.replace(",split", "") + "a.jpg,1,2,3,4,cat\n")
    assert "class cat has too few images" in refusal(open_boxes, file)


XML = """<annotation><folder>x</folder><filename>{name}</filename>
<size><width>40</width><height>30</height></size>{objects}</annotation>"""
OBJECT = (
    "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>"
)


def annotated(root, split, name, category=None):
    for folder in ("Annotations", "Data"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(root / "Data" / split / f"{name}.JPEG")
    objects = OBJECT.format(category) if category else ""
    (root / "Annotations" / split / f"{name}.xml").write_text(XML.format(name=name, objects=objects))


def test_folders_train_and_val_of_xml_files_are_the_splits(tmp_path):
    """As in ILSVRC, where some photographs have no box."""
    annotated(tmp_path, "train", "a", "cat")
    annotated(tmp_path, "train", "b")
    annotated(tmp_path, "val", "c", "cat")
    found = open_boxes(tmp_path / "Annotations", tmp_path / "Data")
    assert [path.name for path in found.train.dataset.photographs] == ["a.JPEG"]
    assert [path.name for path in found.val.dataset.photographs] == ["c.JPEG"]
    assert found.train.without == (str(tmp_path / "Annotations" / "train" / "b.xml"),)
    annotated(tmp_path, "test", "d", "dog")
    assert "in neither of the folders train and val" in refusal(
        open_boxes, tmp_path / "Annotations", tmp_path / "Data"
    )


def test_the_digits_are_made_and_are_the_same_every_time():
    one, again = open_boxes("digits"), open_boxes("digits")
    assert (len(one.train), len(one.val)) == DIGITS
    assert digest_of(one.train) == digest_of(again.train) != digest_of(one.val)


def test_the_boxes_follow_the_photographs_that_are_left(tmp_path):
    whole = open_boxes(write_boxed(tmp_path)).train
    rows = np.array([5, 2, 7])
    part = type(whole.dataset)(
        "some",
        whole.dataset.classes,
        tuple(whole.dataset.photographs[row] for row in rows),
        whole.dataset.labels[rows],
    )
    assert [each.tolist() for each in of_photographs(whole, part).boxes] == [
        whole.boxes[row].tolist() for row in rows
    ]
