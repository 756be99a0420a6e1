"""Tables 1 and 2 as data."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verydeep.configurations import CONFIGURATIONS, Architecture, configuration, output_sides, whole_number
from verydeep.errors import UserError

PARAMETERS = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "C": 133_638_952,
    "D": 138_357_544,
    "E": 143_667_240,
    "B-5x5": 134_503_528,
}
GIGA_MULTIPLY_ADDS = {"A": 7.61, "A-LRN": 7.61, "B": 11.31, "C": 11.77, "D": 15.47, "E": 19.63, "B-5x5": 9.36}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_exactly_those_of_table_2(name):
    assert CONFIGURATIONS[name].parameters(classes=1000) == PARAMETERS[name]


@pytest.mark.parametrize("name", GIGA_MULTIPLY_ADDS)
def test_multiply_adds_at_224(name):
    assert round(CONFIGURATIONS[name].multiply_adds() / 1e9, 2) == GIGA_MULTIPLY_ADDS[name]


def test_weight_layers_are_the_heads_of_table_1():
    assert {name: each.weight_layers for name, each in CONFIGURATIONS.items()} == {
        "A": 11,
        "A-LRN": 11,
        "B": 13,
        "C": 16,
        "D": 16,
        "E": 19,
        "B-5x5": 8,
    }


def test_receptive_fields_of_stacks_are_those_of_section_2_3():
    """Two 3x3 layers see 5x5 pixels, and at every pooling B-5x5 sees as many pixels as B."""
    b, shallow = CONFIGURATIONS["B"].receptive_fields(), CONFIGURATIONS["B-5x5"].receptive_fields()
    assert (b["conv1_1"].size, b["conv1_2"].size, shallow["conv1_1"].size) == (3, 5, 5)
    assert all(b[f"pool{i}"] == shallow[f"pool{i}"] for i in range(1, 6))
    d = CONFIGURATIONS["D"].receptive_fields()
    # As published for VGG-16 (Gao et al., "Computing receptive fields of convolutional neural networks", 2019).
    assert (d["conv5_3"].size, d["pool5"].size, d["pool5"].stride) == (196, 212, 32)


def test_c_adds_1x1_layers_to_b_and_d_makes_them_3x3():
    c = [layer for layer in Architecture("C").layers if layer.kind == "conv" and layer.name.startswith("conv")]
    assert [layer.name for layer in c if layer.kernel == 1] == ["conv3_3", "conv4_3", "conv5_3"]
    d = [layer for layer in Architecture("D").layers if layer.name.startswith("conv")]
    assert [layer.name for layer in d] == [layer.name for layer in c]
    assert {layer.kernel for layer in d} == {3}


def test_lrn_stands_once_after_the_first_relu():
    names = [layer.name for layer in Architecture("A-LRN").layers]
    assert names[:4] == ["conv1_1", "relu1_1", "lrn1_1", "pool1"]
    assert sum("lrn" in name for name in names) == 1


@given(st.sampled_from(list(CONFIGURATIONS)), st.integers(1, 12), st.sampled_from([0.125, 0.25, 0.5, 1.0, 1.3]))
def test_one_crop_gives_one_cell(name, multiple, width):
    crop = 32 * multiple
    sides = output_sides(Architecture(name, 10, crop, width, 16).layers, crop)
    assert sides[-1] == 1
    assert sides[0] == crop


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((10, 100, 1.0, 16), ["crop is 100", "multiple of 32", "96"]),
        ((10, 0, 1.0, 16), ["crop is 0", "try 32"]),
        ((10, 64, 0.0, 16), ["width is 0.0"]),
        ((10, 64, float("nan"), 16), ["width is nan"]),
        ((-1, 64, 1.0, 16), ["classes is -1"]),
        ((10, 64, 1.0, 0), ["fully_connected is 0"]),
    ],
)
def test_impossible_sizes_are_refused(sizes, words):
    with pytest.raises(UserError) as refusal:
        Architecture("A", *sizes)
    assert all(word in str(refusal.value) for word in words)


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(UserError, match=r"'VGG16'.*A, A-LRN, B, C, D, E, B-5x5"):
        configuration("VGG16")


def test_tables_need_no_torch():
    code = "import sys, verydeep; verydeep.CONFIGURATIONS['D'].parameters(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sizes_are_whole_numbers():
    assert whole_number("crop", np.int64(64)) == 64
    for value in (64.0, "64", True, None):
        with pytest.raises(UserError, match="crop is"):
            whole_number("crop", value)
