"""Data sets in VOC's layout, as class folders and as tables; faults are named with their line."""

import numpy as np
import pytest

from synthetic import refusal, touch
from transfer_sets import COLOURS, VOC, actions, caltech, voc
from verydeep.transfer import open_transfer_data
from verydeep.transfer.data import TransferData


def test_voc_classification(tmp_path):
    data = open_transfer_data(voc(tmp_path / "VOCdevkit" / "VOC2007"))
    assert (data.name, data.measure, data.classes) == ("VOC2007", "ap-11", tuple(COLOURS))
    assert {part: len(rows) for part, rows in data.parts.items()} == {"train": 10, "val": 4, "test": 8}
    assert data.photographs[data.parts["val"][0]].name == "val_0000.jpg"
    blue, green, red = data.labels[data.parts["train"]].T.tolist()
    assert red == [1, -1, 1, -1, -1, 1, -1, -1, -1, 1]
    assert blue[8] == 0, "difficult"
    assert (data.labels[2] == 1).sum() == 2, "a photograph of two classes"
    assert green[9] == red[9] == 1
    assert not data.single


def test_the_year_decides_the_average_precision(tmp_path):
    assert open_transfer_data(voc(tmp_path / "VOC2009")).measure == "ap-11"
    assert open_transfer_data(voc(tmp_path / "VOC2010")).measure == "ap-area"
    assert open_transfer_data(voc(tmp_path / "mine")).measure == "ap-area"


def test_without_labels_of_the_test_images_there_is_no_test_part(tmp_path):
    data = open_transfer_data(voc(tmp_path / "VOC2012", ("train", "val")))
    assert list(data.parts) == ["train", "val"]
    assert len(data) == len(VOC["train"]) + len(VOC["val"])


def test_voc_actions_have_the_boxes_of_people(tmp_path):
    data = open_transfer_data(actions(tmp_path / "VOC2012"), "actions")
    assert (data.name, data.measure, len(data)) == ("VOC2012 actions", "ap-area", 18)
    assert data.boxes[:2].tolist() == [[0, 0, 40, 40], [40, 0, 80, 40]]
    assert data.photographs[0] == data.photographs[1]
    assert data.labels[0].tolist() == [-1, -1, 1]  # blue, green, red


def test_faults_of_voc_are_named_with_their_line(tmp_path):
    root = voc(tmp_path / "VOC2007")
    lists = root / "ImageSets" / "Main"
    right = (lists / "red_train.txt").read_text()

    def fault(text, name="red_train.txt"):
        touch(lists / name, text)
        message = refusal(open_transfer_data, root)
        touch(lists / "red_train.txt", right)
        assert name in message
        return message

    assert "line 2 is 'train_0001 2'" in fault("train_0000 1\ntrain_0001 2\n")
    assert "line 1 is '../../etc/passwd 1'" in fault("../../etc/passwd 1\n")
    assert "line 1 is 'train_0000'" in fault("train_0000\n")
    assert "line 10 differs from blue_train.txt" in fault(right.replace("train_0009", "train_0010"))
    assert "the number of lines (9) differs" in fault("".join(right.splitlines(True)[:9]))
    (lists / "red_train.txt").write_bytes(b"train_0000 \xff\n")
    assert "red_train.txt: is not UTF-8 (byte 11)" in refusal(open_transfer_data, root)
    touch(lists / "red_train.txt", right)
    (lists / "red_val.txt").unlink()
    assert "red_val.txt: cannot be read: No such file" in refusal(open_transfer_data, root)
    touch(lists / "red_val.txt", "".join(f"train_{number:04} 1\n" for number in range(4)))
    for name in ("green", "blue"):
        touch(lists / f"{name}_val.txt", "".join(f"train_{number:04} -1\n" for number in range(4)))
    assert "train_0000 is in two of train, val and test" in refusal(open_transfer_data, root)
    assert "ImageSets/Action: has no lists" in refusal(open_transfer_data, root, "actions")
    assert "pass one of its folders, such as" in refusal(open_transfer_data, tmp_path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<annotation>", "is not an annotation in XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "has a document type"),
        ("<annotation/>", "object 2 of 0 is not a person"),
        (
            "<annotation><object/><object><name>person</name><bndbox><xmin>5</xmin><ymin>1</ymin><xmax>4</xmax>"
            "<ymax>9</ymax></bndbox></object></annotation>",
            "the box of object 2 is ['5', '1', '4', '9']",
        ),
        (
            "<annotation><object/><object><name>person</name><bndbox><xmin>nan</xmin></bndbox></object></annotation>",
            "the box of object 2 is",
        ),
    ],
)
def test_faults_of_annotations_are_named(tmp_path, text, fault):
    root = actions(tmp_path / "VOC2012")
    touch(root / "Annotations" / "2011_train000.xml", text)
    message = refusal(open_transfer_data, root, "actions")
    assert "2011_train000.xml" in message
    assert fault in message


def test_class_folders_have_no_split(tmp_path):
    root = caltech(tmp_path / "caltech")
    data = open_transfer_data(root)
    assert (data.name, data.measure, data.classes, len(data)) == ("caltech", "class-recall", tuple(COLOURS), 24)
    assert data.parts == {}
    assert data.single
    assert not (root / "split.json").exists()
    assert "not a folder of class folders" in refusal(open_transfer_data, root / "red")
    assert "no such folder" in refusal(open_transfer_data, tmp_path / "nowhere")
    assert "actions need a folder of PASCAL VOC" in refusal(open_transfer_data, root, "actions")


def test_a_data_set_of_train_is_tested_on_val(folder):
    data = open_transfer_data(folder)
    assert (data.name, data.classes) == ("pets", ("Dog", "cat"))
    assert {part: rows.tolist() for part, rows in data.parts.items()} == {"train": [0, 1, 2, 3], "val": [4, 5]}
    assert data.labels.argmax(1).tolist() == [0, 0, 1, 1, 0, 1]


def test_tables(tmp_path):
    table = touch(
        tmp_path / "beach.csv",
        'file,classes,split\na.jpg,sand;sea,train\n"b, c.jpg",,train\nd.jpg, sea ;sun,test\ne.jpg,sand,val\n',
    )
    data = open_transfer_data(table)
    assert (data.name, data.measure, data.classes) == ("beach.csv", "ap-area", ("sand", "sea", "sun"))
    assert [path.name for path in data.photographs] == ["a.jpg", "b, c.jpg", "d.jpg", "e.jpg"]
    assert data.labels.tolist() == [[1, 1, -1], [-1, -1, -1], [-1, 1, 1], [1, -1, -1]]
    assert {part: rows.tolist() for part, rows in data.parts.items()} == {"train": [0, 1], "val": [3], "test": [2]}
    touch(table, "classes,file\r\nsand,a.jpg\r\nsea,b.jpg\r\n")
    data = open_transfer_data(table)
    assert (data.measure, data.parts) == ("class-recall", {})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name,classes\n", "line 1 is 'name,classes'"),
        ("", "line 1 is ''"),
        ("file,classes\na.jpg\n", "line 2 does not have the 2 columns"),
        ("file,classes\na.jpg,b,c\n", "line 2 does not have the 2 columns"),
        ("file,classes\n,b\n", "line 2 names no file"),
        ("file,classes\na.jpg,b\na.jpg,c\n", "line 3 has a.jpg, as line 2 does"),
        ("file,classes,split\na.jpg,b,dev\n", "line 2 has the split 'dev'"),
        ("file,classes\n", "0 photographs and 0 classes"),
        ("file,classes\na.jpg,\n", "1 photographs and 0 classes"),
        ('file,classes\n"a.jpg,b\n', "is not a CSV table"),
    ],
)
def test_faults_of_tables_are_named_with_their_line(tmp_path, text, fault):
    message = refusal(open_transfer_data, touch(tmp_path / "a.csv", text))
    assert "a.csv: " in message
    assert fault in message


def test_data_in_memory_are_checked():
    pixels = (np.zeros((2, 2, 3), np.uint8),) * 2
    labels = np.array([[1, -1], [-1, 1]], np.int8)
    rows = np.array([0, 1])
    assert len(TransferData("a", ("b", "c"), pixels, labels, "class-recall", {"train": rows})) == 2
    assert "must have (2, 3)" in refusal(TransferData, "a", ("b", "c", "d"), pixels, labels, "ap-11")
    assert "exactly one class" in refusal(TransferData, "a", ("b", "c"), pixels, abs(labels), "class-recall")
    assert "class c has no photographs" in refusal(
        TransferData, "a", ("b", "c"), pixels, np.array([[1, -1], [1, 0]], np.int8), "ap-11"
    )
    assert "given twice" in refusal(TransferData, "a", ("b", "b"), pixels, labels, "ap-11")
    assert "not one of its examples" in refusal(
        TransferData, "a", ("b", "c"), pixels, labels, "ap-11", {"train": rows + 1}
    )
    assert "each box" in refusal(
        TransferData, "a", ("b", "c"), pixels, labels, "ap-11", {}, np.array([[0, 0, 1, 1], [1, 0, 1, 1]])
    )
