"""Appendix B: mean class recall (Caltech) and mean average precision (PASCAL VOC), with their intervals."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int8, Int64

from verydeep.errors import UserError

Measure: TypeAlias = Literal["class-recall", "ap-11", "ap-area"]
"""Recall of each class; VOC's average precision at 11 recalls (2007 to 2009); or the area under the curve of
precision against recall (since 2010)."""

NAMES: dict[Measure, str] = {
    "class-recall": "mean class recall",
    "ap-11": "mean average precision, 11 points",
    "ap-area": "mean average precision, area",
}
"""The mean over classes of each measure, in words."""

_Counting: TypeAlias = Callable[[Int64[np.ndarray, " N"]], Float64[np.ndarray, " K"]]
"""The measure of each class, if each photograph counts a number of times."""

RESAMPLES = 1000
"""Number of bootstrap samples behind an interval."""


def by_class(
    measure: Measure,
    scores: Float[np.ndarray, "N K"],
    labels: Int8[np.ndarray, "N K"],
    counts: Int64[np.ndarray, " N"] | None = None,
) -> Float64[np.ndarray, " K"]:
    """Return the measure of each class, in [0, 1]; NaN for a class without photographs.

    Args:
        measure: what to measure.
        scores: the scores of each photograph.
        labels: for each photograph and class: 1 if it belongs to the class, -1 if not, 0 if it is difficult and
            does not count for this class.
        counts: how often each photograph counts; once if None.

    Raises:
        UserError: if a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise UserError("some scores are not finite, so nothing can be measured")
    return _counting(measure, scores, labels)(np.ones(len(labels), np.int64) if counts is None else counts)


def mean(values: Float64[np.ndarray, " K"]) -> float:
    """Return the mean over classes, without those that have no photographs.

    Raises:
        UserError: if no class has any.
    """
    found = _mean(values)
    if np.isnan(found):
        raise UserError("no class has a photograph to measure on")
    return found


def _mean(values: Float64[np.ndarray, " K"]) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")


class Judged(NamedTuple):
    """The scores of the test photographs of one split."""

    rows: Int64[np.ndarray, " n"]
    """Their numbers in the data set; a photograph may be tested in several splits."""
    scores: Float[np.ndarray, "n K"]
    labels: Int8[np.ndarray, "n K"]


def interval(measure: Measure, judged: Sequence[Judged], seed: int = 0) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the measure's mean over classes and splits.

    Photographs are drawn with replacement, a photograph of several splits in all of them together; for the class
    recall, within its class. The interval is about the choice of test photographs, with the classifiers as they
    are. A class with a single test photograph adds nothing to the width of a class recall's interval.

    Args:
        measure: what is measured.
        judged: one entry per split.
        seed: of the draws.
    """
    return limits(resampled(measure, judged, seed))


def difference_interval(
    measure: Measure, first: Sequence[Judged], second: Sequence[Judged], seed: int = 0
) -> tuple[float, float]:
    """Return the 95% interval of how much the measure of the first exceeds that of the second.

    Args:
        measure: what is measured.
        first: one entry per split.
        second: the same splits, judged by other classifiers.
        seed: of the draws, which are the same for both, so that what both find difficult does not count.

    Raises:
        UserError: if the splits are not the same.
    """
    pairs = zip(first, second, strict=False)
    if len(first) != len(second) or not all(np.array_equal(one.rows, other.rows) for one, other in pairs):
        raise UserError("only results on the same test photographs can be compared")
    return limits(resampled(measure, first, seed) - resampled(measure, second, seed))


def limits(drawn: Float64[np.ndarray, " R"]) -> tuple[float, float]:
    """Return the 95% interval of what was measured on bootstrap samples; NaN does not count."""
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def resampled(measure: Measure, judged: Sequence[Judged], seed: int = 0) -> Float64[np.ndarray, " R"]:
    """Return the mean over classes and splits for each bootstrap sample; NaN if a split loses all photographs."""
    numbers, labels = _photographs(judged)
    random = np.random.Generator(np.random.Philox(key=seed))
    strata = labels.argmax(1) if measure == "class-recall" else np.zeros(len(numbers), np.int64)
    groups = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    places = [np.searchsorted(numbers, each.rows) for each in judged]
    measured = [_counting(measure, each.scores, each.labels) for each in judged]
    drawn = np.zeros(RESAMPLES)
    for at in range(RESAMPLES):
        counts = np.zeros(len(numbers), np.int64)
        for group in groups:
            counts[group] = np.bincount(random.integers(0, len(group), len(group)), minlength=len(group))
        drawn[at] = np.mean([_mean(each(counts[place])) for each, place in zip(measured, places, strict=True)])
    return drawn


def _photographs(judged: Sequence[Judged]) -> tuple[Int64[np.ndarray, " M"], Int8[np.ndarray, "M K"]]:
    """Return the number of each photograph of any split, and its labels."""
    rows = np.concatenate([each.rows for each in judged])
    numbers, first = np.unique(rows, return_index=True)
    return numbers, np.concatenate([each.labels for each in judged])[first]


def _counting(measure: Measure, scores: Float[np.ndarray, "N K"], labels: Int8[np.ndarray, "N K"]) -> _Counting:
    """Return the measure as a function of how often each photograph counts; what it does not need is done once."""
    if measure == "class-recall":
        return _class_recall(scores, labels)
    columns = zip(scores.T, labels.T, strict=True)
    classes = [_average_precision(measure == "ap-11", *column) for column in columns]
    return lambda counts: np.array([each(counts) for each in classes])


def _class_recall(scores: Float[np.ndarray, "N K"], labels: Int8[np.ndarray, "N K"]) -> _Counting:
    """Measure the share of the photographs of each class whose highest score, the first of equals, is its own."""
    own, classes = labels.argmax(1), labels.shape[1]
    right = own == scores.argmax(1)

    def measured(counts: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, " K"]:
        there = np.bincount(own, counts, minlength=classes)
        with np.errstate(invalid="ignore"):
            found: Float64[np.ndarray, " K"] = np.bincount(own, counts * right, minlength=classes) / there
        return found

    return measured


def _average_precision(
    eleven: bool, scores: Float[np.ndarray, " N"], labels: Int8[np.ndarray, " N"]
) -> Callable[[Int64[np.ndarray, " N"]], float]:
    """Measure VOC's average precision; of photographs with equal scores, the first is ranked higher."""
    order = np.argsort(-scores, kind="stable")
    order = order[labels[order] != 0]
    positive = labels[order] > 0

    def measured(counts: Int64[np.ndarray, " N"]) -> float:
        times = counts[order]
        right, times = positive[times > 0], times[times > 0]
        found = np.cumsum(times * right)
        if not len(found) or not found[-1]:
            return float("nan")
        precision = found / np.cumsum(times)
        best = np.maximum.accumulate(precision[::-1])[::-1]  # the highest at this recall or a higher one
        if eleven:  # in whole numbers: 3 of 10 is a recall of 0.3, which 3 * 0.1 is not
            first = [int(np.argmax(10 * found >= tenths * found[-1])) for tenths in range(11)]
            return float(best[first].mean())
        return float((best * times * right).sum() / found[-1])

    return measured
