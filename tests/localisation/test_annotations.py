"""Photographs with boxes, as people and their tools write them."""

import numpy as np
import pytest
from PIL import Image

from synthetic import refusal
from verydeep.localisation.annotations import read_annotations

HEAD = "file,x0,y0,x1,y1,class\n"
VOC = """<annotation><folder>{folder}</folder><filename>{name}</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax>
</bndbox></object>"""


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (40, 30), "grey").save(tmp_path / name)
    return tmp_path


def written(folder, text):
    (folder / "boxes.csv").write_text(text)
    return folder / "boxes.csv"


def test_a_csv_file_gives_photographs_with_one_or_several_boxes(folder):
    found = read_annotations(
        written(folder, HEAD + "b.jpg,1,2,3,4,dog\na.jpg,0,0,40,30,cat\nb.jpg,5,6,7.5,8,dog\n")
    )
    assert found.dataset.classes == ("cat", "dog")
    assert [path.name for path in found.dataset.photographs] == ["a.jpg", "b.jpg"]
    assert found.dataset.labels.tolist() == [0, 1]
    assert [each.tolist() for each in found.boxes] == [[[0, 0, 40, 30]], [[1, 2, 3, 4], [5, 6, 7.5, 8]]]


def test_boxes_of_another_size_follow_the_photograph(folder):
    file = written(folder, "split,file,width,height,x0,y0,x1,y1,class\nval,a.jpg,400,600,100,60,200,600,cat\n")
    assert read_annotations(file).boxes[0].tolist() == [[10, 3, 20, 30]]


def test_a_box_that_sticks_out_by_a_pixel_is_clipped(folder):
    assert read_annotations(written(folder, HEAD + "a.jpg,-0.5,0,41,30,cat\n")).boxes[0].tolist() == [
        [0, 0, 40, 30]
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.jpg,10,20,5,25,cat", "line 2: box (10, 20, 5, 25) has no area; give x0 < x1"),
        ("a.jpg,10,20,10,25,cat", "has no area"),
        ("a.jpg,0.1,0.2,0.5,0.6,cat", "looks like fractions of the image; give edges in pixels"),
        ("a.jpg,10,20,50,25,cat", "reaches beyond the image of 40 x 30 pixels"),
        ("a.jpg,x,20,30,25,cat", "line 2: x0 is 'x'; give a number of pixels"),
        ("a.jpg,nan,20,30,25,cat", "x0 is 'nan'"),
        ("a.jpg,1,20,30,25,", "class is empty"),
        ("a.jpg,1,20,30", "another number of fields"),
        ("a.jpg,1,20,30,25,cat,dog", "another number of fields"),
        ("z.jpg,1,20,30,25,cat", "z.jpg does not exist"),
        ("../a.jpg,1,20,30,25,cat", "is not below"),
    ],
)
def test_a_row_that_is_wrong_is_named(folder, row, said):
    assert said in refusal(read_annotations, written(folder, HEAD + row + "\n"))


def test_a_file_that_is_wrong_is_named(folder):
    assert "the first line lacks x0, y0" in refusal(read_annotations, written(folder, "file,x1,y1,class\n"))
    assert "holds no boxes" in refusal(read_annotations, written(folder, HEAD))
    assert "does not exist" in refusal(read_annotations, folder / "none.csv")
    (folder / "boxes.csv").write_bytes(b"\xff\xfe")
    assert "cannot read" in refusal(read_annotations, folder / "boxes.csv")
    written(folder, HEAD + "d.jpg,1,2,3,4,cat\n")
    (folder / "d.jpg").write_text("no photograph")
    assert "line 2" in refusal(read_annotations, folder / "boxes.csv")


def voc(folder, name, *objects, place="VOC2007"):
    (folder / "Annotations").mkdir(exist_ok=True)
    made = "".join(OBJECT.format(*edges, name=category) for category, *edges in objects)
    text = VOC.format(folder=place, name=f"{name}.jpg", objects=made)
    (folder / "Annotations" / f"{name}.xml").write_text(text)


def test_voc_counts_pixels_from_1_and_ilsvrc_from_0(folder):
    voc(folder, "a", ("cat", 1, 1, 40, 30))
    voc(folder, "b", ("dog", 0, 0, 39, 29), place="n02102040")
    found = read_annotations(folder / "Annotations", folder)
    assert [each.tolist() for each in found.boxes] == [[[0, 0, 40, 30]]] * 2
    assert found.dataset.classes == ("cat", "dog")


def test_the_class_of_a_photograph_is_that_of_its_first_box_and_photographs_without_boxes_are_listed(folder):
    voc(folder, "a", ("dog", 1, 1, 10, 10), ("person", 5, 5, 20, 20), ("dog", 3, 3, 12, 12))
    voc(folder, "c")
    found = read_annotations(folder / "Annotations", folder)
    assert found.dataset.classes == ("dog",)
    assert np.array_equal(found.boxes[0], [[0, 0, 10, 10], [2, 2, 12, 12]])
    assert [each.endswith("c.xml") for each in found.without] == [True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation>", "cannot read"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "has a document type"),
        ("<annotation><object/></annotation>", "<size/width> is missing"),
        (
            VOC.format(folder="", name="a.jpg", objects="<object><name>x</name></object>"),
            "<bndbox/xmin> is missing",
        ),
        (VOC.format(folder="", name="none.jpg", objects="<object/>"), "there is no photograph"),
    ],
)
def test_an_xml_file_that_is_wrong_is_named(folder, text, said):
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "x.xml").write_text(text)
    message = refusal(read_annotations, folder / "Annotations", folder)
    assert said in message
    assert "x.xml" in message
