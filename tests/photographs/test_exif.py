"""Orientation from EXIF of every kind, and from none."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthetic import tiff
from verydeep.photographs.exif import orientation


@given(
    st.integers(1, 8),
    st.sampled_from("<>"),
    st.sampled_from([1, 3, 4]),
    st.lists(st.integers(0, 0xFFFF).filter(lambda tag: tag != 0x0112), max_size=5),
    st.integers(0, 2),
)
def test_the_orientation_is_found_in_either_order_of_bytes(stated, order, kind, tags, names):
    assert orientation([b"Exif\0\0" * names + tiff(stated, order, kind, tags)]) == stated


@given(st.binary(max_size=60))
def test_what_makes_no_sense_is_upright_or_stated(noise):
    assert 1 <= orientation([noise]) <= 8
    assert 1 <= orientation([tiff(6)[:10] + noise]) <= 8


@pytest.mark.parametrize("stated", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_passed_over(stated):
    assert orientation([tiff(stated)]) == 1
    assert orientation([tiff(stated), tiff(8)]) == 8


def test_the_first_piece_to_state_one_counts():
    assert orientation([]) == 1
    assert orientation([b"", b"II*\0", tiff(3), tiff(6)]) == 3
    assert orientation([tiff(1), tiff(6)]) == 1


def test_a_directory_that_claims_very_many_entries_ends_with_the_data():
    head = b"MM\0*" + struct.pack(">IH", 8, 65535)
    assert orientation([head]) == 1
    assert orientation([head + struct.pack(">HHIHH", 0x0112, 3, 1, 5, 0)]) == 5
    assert orientation([head + struct.pack(">HHIHH", 0x0112, 3, 1, 5, 0)[:11]]) == 1
