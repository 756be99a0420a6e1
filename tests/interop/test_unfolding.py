"""A kernel that was folded into raw RGB comes back bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from verydeep.interop.conventions import TORCHVISION
from verydeep.interop.unfolding import restored, rounding, unfolded

BIGGEST = float(np.finfo(np.float32).max)
FINITE = st.floats(-BIGGEST, BIGGEST, width=32)
POWERS = st.integers(-149, 127).map(lambda exponent: float(np.float32(2.0**exponent)))
KERNELS = arrays(np.float32, (2, 3, 2, 2), elements=st.one_of(FINITE, POWERS))


def same(first, second):
    return first.dtype == second.dtype == np.float32 and first.tobytes() == second.tobytes()


@given(KERNELS)
@settings(max_examples=100, deadline=None)
def test_any_float32_kernel_comes_back_bit_for_bit(kernel):
    folded = TORCHVISION.folded(kernel)
    assert same(restored(TORCHVISION, folded, rounding(TORCHVISION, kernel)), kernel)


@given(KERNELS)
@settings(max_examples=100, deadline=None)
def test_without_a_record_it_is_folded_to_the_same_kernel_again(kernel):
    folded = TORCHVISION.folded(kernel)
    assert same(TORCHVISION.folded(unfolded(TORCHVISION, folded)), folded)


@given(arrays(np.float32, (2, 3, 2, 2), elements=st.floats(2.0**-100, 2.0**100, width=32)))
@settings(max_examples=100, deadline=None)
def test_a_kernel_that_was_never_folded_changes_by_less_than_its_last_place(kernel):
    exact = kernel.astype(np.float64) * np.array(TORCHVISION.std)[:, None, None]
    found = unfolded(TORCHVISION, kernel)
    assert (np.abs(found - exact) < np.spacing(found)).all()


def test_the_record_is_needed_for_a_small_share_of_weights():
    kernel = np.random.default_rng(0).standard_normal((64, 3, 3, 3)).astype(np.float32)
    record = rounding(TORCHVISION, kernel)
    assert set(record) == {"-1", "1"}
    lost = sum(map(len, record.values()))
    assert 0.03 < lost / kernel.size < 0.09
    assert not same(unfolded(TORCHVISION, TORCHVISION.folded(kernel)), kernel), "else the record would be useless"


def test_a_record_that_is_damaged_or_of_other_weights_does_no_harm():
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    folded = TORCHVISION.folded(kernel)
    plain = unfolded(TORCHVISION, folded)
    strange = [
        None,
        3,
        [],
        {"x": [1]},
        {"1": 5},
        {"1": ["a", -1, 10**9, 2.5]},
        {"9999": [1]},
        {"--1": [1]},
        {"1": None},
    ]
    for record in (*strange, {"3": [0, 1]}, {"100": list(range(kernel.size))}):
        assert same(restored(TORCHVISION, folded, record), plain)
