"""Many paths in little memory, unchanged."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verydeep.datasets.paths import Paths

names = st.binary(min_size=1, max_size=9).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_"))


@given(st.lists(names.filter(lambda name: name not in (b".", b"..")), max_size=9), st.data())
def test_they_are_those_that_went_in(spelt, data):
    paths = Paths.below(Path("/photographs"), map(os.fsdecode, spelt))
    expected = [Path(os.fsdecode(b"/photographs/" + name)) for name in spelt]
    assert list(paths) == expected
    assert len(paths) == len(spelt)
    assert list(pickle.loads(pickle.dumps(paths))) == expected
    bounds = st.none() | st.integers(-12, 12)
    part = slice(data.draw(bounds), data.draw(bounds), data.draw(st.sampled_from([None, 1, 2, -1])))
    assert list(paths[part]) == expected[part]
    rows = data.draw(st.lists(st.integers(0, len(spelt) - 1), max_size=5)) if spelt else []
    assert list(paths.take(np.array(rows, np.int64))) == [expected[row] for row in rows]
    for row in range(-len(spelt), len(spelt)):
        assert paths[row] == paths[np.int64(row)] == expected[row]
    for row in (len(spelt), -len(spelt) - 1):
        with pytest.raises(IndexError):
            paths[row]


def test_a_path_takes_no_more_than_its_name_and_two_numbers():
    paths = Paths.below(Path("/p"), (f"n01440764/n01440764_{number}.JPEG" for number in range(10_000)))
    size = sys.getsizeof(paths.text) + paths.begins.base.nbytes
    assert size < 50 * len(paths)
