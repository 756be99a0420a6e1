"""The rate drops when validation stops improving, three times; then training ends."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from verydeep.recipe import Recipe
from verydeep.training.schedule import stage

RECIPE = Recipe(patience=2)


def rates(errors, recipe=RECIPE):
    return [stage(recipe, 1e-2, errors[:n]).rate for n in range(len(errors) + 1)]


def test_the_rate_stays_while_the_error_falls():
    assert rates([0.9, 0.8, 0.85, 0.7, 0.71, 0.6]) == [1e-2] * 7


def test_the_rate_falls_by_ten_three_times_and_then_the_training_ends():
    errors = [0.5] + [0.6] * 8
    assert rates(errors)[::2] == [1e-2, 1e-2, 1e-3, 1e-3 / 10, 1e-2 / 1000]
    assert not stage(RECIPE, 1e-2, errors[:8]).ended
    assert stage(RECIPE, 1e-2, errors) == stage(RECIPE, 1e-2, [*errors, 0.0])
    assert stage(RECIPE, 1e-2, errors).ended


def test_an_equal_error_is_no_improvement():
    assert stage(RECIPE, 1e-2, [0.5, 0.5, 0.5]).drops == 1


def test_a_drop_gives_new_patience():
    assert stage(RECIPE, 1e-2, [0.5, 0.6, 0.6, 0.55]).drops == 1
    assert stage(RECIPE, 1e-2, [0.5, 0.6, 0.6, 0.4, 0.5]).drops == 1


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 5), st.integers(0, 4))
def test_drops_never_go_back_nor_beyond(errors, patience, drops):
    recipe = Recipe(patience=patience, rate_drops=drops)
    stages = [stage(recipe, 1e-2, errors[:n]) for n in range(len(errors) + 1)]
    for before, after in pairwise(stages):
        assert before.drops <= after.drops <= before.drops + 1
        assert after.ended >= before.ended
    assert all(each.drops <= drops for each in stages)
    assert all(each.rate == 1e-2 / 10**each.drops for each in stages)


@given(st.lists(st.floats(0, 1), max_size=20), st.sets(st.integers(1, 25), max_size=4))
def test_planned_drops_come_after_their_epochs_whatever_the_errors(errors, epochs):
    if not epochs:
        return
    recipe = Recipe(drop_after=tuple(sorted(epochs)), patience=1, rate_drops=0)
    found = stage(recipe, 1e-2, errors)
    assert found.drops == sum(epoch <= len(errors) for epoch in epochs)
    assert found.rate == 1e-2 / 10**found.drops
    assert not found.ended
    assert found == stage(recipe, 1e-2, [0.5] * len(errors))
