"""One reading of every photograph of a data set: sizes, unreadable files, mean colour and its spread.

What the paper's preprocessing (mean colour, Sect. 2.1) and augmentation (colour shift, Sect. 3.1) need to know is
found once per data set and kept.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32

from verydeep.datasets.dataset import Dataset, fingerprint, selected
from verydeep.errors import UserError
from verydeep.files import cache_folder, remove_abandoned, written_aside
from verydeep.photographs.photograph import MAX_PIXELS, ImageError, Photograph, examine
from verydeep.photographs.rescaling import too_elongated
from verydeep.progress import track

SURVEY_SIDE = 256
"""At most this many rows and columns of an image's pixels enter the mean colour."""

SURVEY_FORMAT = 2
"""Counted up whenever a survey kept by an earlier version must not be taken for one of this version."""

_BLOCK = 16
"""Photographs read by a thread at a time: a future each would need gigabytes for 1.28 million of them."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What one reading of a data set found; mean and covariance are NaN where nothing was readable."""

    sizes: Int32[np.ndarray, "N 2"]
    """Width and height of each photograph at full size, as a person sees it; 0, 0 where unreadable."""
    unreadable: tuple[tuple[int, str], ...]
    """Index and reason (a line that names the file) of each photograph that could not be read."""
    mean: Float64[np.ndarray, "3"]
    """Mean RGB in 0..255; each photograph counts equally, whatever its size."""
    covariance: Float64[np.ndarray, "3 3"]
    """Of the RGB values about that mean; each photograph counts equally."""
    suspicious: tuple[tuple[int, str], ...] = ()
    """Index and reason (a line that names the file) of each that was read, but perhaps not as it was taken."""


def survey(dataset: Dataset, workers: int = 0, progress: bool = True) -> Survey:
    """Read every photograph of a data set once, or find what an earlier reading of the same files found.

    Colours are taken from a regular grid of at most 256 x 256 pixels of each photograph. `workers` is the
    number of threads (0: one for each processor); the result does not depend on it. The survey is kept in
    the user's cache folder, under a key of paths, file sizes and times of change; where that folder cannot
    be written, it is made anew each time. Unreadable photographs are no error here but part of the result.

    Raises:
        UserError: for a negative number of workers.
    """
    if workers < 0:
        raise UserError(f"workers: {workers} given, must be 1 or more, or 0 for one for each processor")
    kept_as = _kept_as(dataset)
    kept = _load_survey(kept_as, len(dataset)) if kept_as else None
    # Whether a file can be read may change without a trace in its size and time (a right, a network drive).
    if kept and all(_read(dataset.photographs[index]).reason == reason for index, reason in kept.unreadable):
        return kept
    made = _make_survey(dataset, workers or os.cpu_count() or 1, progress)
    if kept_as:
        _keep_survey(kept_as, made)
    return made


def principal_components(
    covariance: Float64[np.ndarray, "3 3"],
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3 3"]]:
    """Standard deviations along the principal components of colour, and these as unit vectors.

    Largest first; `components[i]`, a row, belongs to `deviations[i]`. The sign of each is chosen so that
    its largest absolute entry (the first, of equals) is positive, so that it does not depend on LAPACK.
    """
    variances, columns = np.linalg.eigh(covariance)
    variances, components = variances[::-1], columns.T[::-1]
    # Grey images leave variances of 0, which rounding makes tiny or negative.
    variances = np.where(variances > 1e-12 * abs(variances).max(), variances, 0.0)
    sizes = abs(components)
    largest = np.argmax(sizes >= sizes.max(axis=1, keepdims=True) - 1e-6, axis=1)
    return np.sqrt(variances), components * np.sign(components[np.arange(3), largest])[:, None]


def unreadable_at(dataset: Dataset, survey: Survey, scale: int) -> Survey:
    """Return the survey with photographs too elongated to be rescaled to a shortest side among the unreadable."""
    short, long = survey.sizes.min(1), survey.sizes.max(1)
    largest = np.flatnonzero((short > 0) & (long * (scale / np.maximum(short, 1)) * scale > MAX_PIXELS / 2))
    refused = []
    for index in largest.tolist():
        width, height = survey.sizes[index].tolist()
        if reason := too_elongated(width, height, scale):
            photograph = dataset.photographs[index]
            refused.append((index, str(ImageError(photograph if isinstance(photograph, Path) else None, reason))))
    if not refused:
        return survey
    sizes = survey.sizes.copy()
    sizes[[index for index, _ in refused]] = 0
    return replace(survey, sizes=sizes, unreadable=tuple(sorted((*survey.unreadable, *refused))))


def leave_out_unreadable(dataset: Dataset, survey: Survey, skip: bool) -> tuple[Dataset, Survey]:
    """Return both without the photographs that the survey could not read; as they are, if there are none.

    Raises:
        UserError: where there are some but `skip` does not allow to leave them out, and where a class would
            lose its last photograph.
    """
    if not survey.unreadable:
        return dataset, survey
    reason, count = survey.unreadable[0][1], len(survey.unreadable)
    if not skip:
        raise UserError(
            f"{dataset.name}: {count} of {len(dataset)} photographs cannot be read, the first: {reason}; "
            "repair or remove them (verydeep inspect lists them), or go on without them: --skip-unreadable"
        )
    readable = np.ones(len(dataset), bool)
    readable[[index for index, _ in survey.unreadable]] = False
    lost = np.setdiff1d(dataset.labels, dataset.labels[readable])
    if lost.size:
        first = next(reason for index, reason in survey.unreadable if dataset.labels[index] == lost[0])
        raise UserError(
            f"{dataset.name}: none of the photographs of class {dataset.classes[lost[0]]} can be read, the "
            f"first: {first}; repair them, or remove the class from train and val"
        )
    photographs = selected(dataset.photographs, np.flatnonzero(readable))
    left = np.cumsum(readable) - 1
    suspicious = tuple((int(left[index]), reason) for index, reason in survey.suspicious if readable[index])
    return (
        replace(dataset, photographs=photographs, labels=dataset.labels[readable]),
        replace(survey, sizes=survey.sizes[readable], unreadable=(), suspicious=suspicious),
    )


class _Reading(NamedTuple):
    """One photograph: its size, the means of its RGB values and of their products, or why it has none."""

    size: tuple[int, int] = (0, 0)
    mean: np.ndarray | None = None
    moment: np.ndarray | None = None
    reason: str = ""
    doubt: str = ""
    """Why these may not be the pixels that were taken."""


def _read(photograph: Photograph) -> _Reading:
    try:
        (pixels, size), doubt = examine(photograph, shortest=SURVEY_SIDE)
    except ImageError as error:
        return _Reading(reason=str(error))
    steps = (-(-side // SURVEY_SIDE) for side in pixels.shape[:2])
    # Sums of at most 2**16 products of bytes are exact in float64: no order of adding can change them.
    colours = pixels[tuple(slice(None, None, step) for step in steps)].reshape(-1, 3).astype(np.float64)
    if doubt:
        doubt = f"{photograph}: {doubt}"
    return _Reading(size, colours.sum(axis=0) / len(colours), colours.T @ colours / len(colours), doubt=doubt)


def _make_survey(dataset: Dataset, workers: int, progress: bool) -> Survey:
    sizes = np.zeros((len(dataset), 2), np.int32)
    unreadable, suspicious = [], []
    mean, moment = np.zeros(3), np.zeros((3, 3))
    readings = _readings(dataset.photographs, workers)
    # In the order of the photographs, whichever thread is done first: sums of floats depend on the order.
    for index, reading in enumerate(
        track(readings, f"Reading {dataset.name}", total=len(dataset), enabled=progress, unit="images")
    ):
        if reading.mean is None or reading.moment is None:
            unreadable.append((index, reading.reason))
            continue
        sizes[index] = reading.size
        if reading.doubt:
            suspicious.append((index, reading.doubt))
        mean += reading.mean
        moment += reading.moment
    count = len(dataset) - len(unreadable)
    if not count:
        return Survey(sizes, tuple(unreadable), np.full(3, np.nan), np.full((3, 3), np.nan))
    mean /= count
    covariance = moment / count - np.outer(mean, mean)
    return Survey(sizes, tuple(unreadable), mean, covariance, tuple(suspicious))


def _readings(photographs: Sequence[Photograph], workers: int) -> Iterator[_Reading]:
    blocks = (photographs[start : start + _BLOCK] for start in range(0, len(photographs), _BLOCK))
    pool = ThreadPoolExecutor(workers)
    try:
        for block in pool.map(lambda block: [_read(photograph) for photograph in block], blocks):
            yield from block
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted survey ends now, not when all has been read


# Surveys that are kept


def _kept_as(dataset: Dataset) -> Path | None:
    """The file that keeps the survey of a data set; None where the user has no home to keep it in."""
    cache = cache_folder()
    if cache is None:
        return None
    key = hashlib.sha256(f"verydeep survey {SURVEY_FORMAT} {fingerprint(dataset)}".encode())
    return cache / "surveys" / f"{key.hexdigest()}.npz"


def _load_survey(path: Path, count: int) -> Survey | None:
    """The survey that is kept in a file; None where there is none, or none that is whole."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            unreadable, suspicious = (
                tuple(zip(kept[f"{what} rows"].tolist(), kept[f"{what} reasons"].tolist(), strict=True))
                for what in ("unreadable", "suspicious")
            )
            found = Survey(kept["sizes"], unreadable, kept["mean"], kept["covariance"], suspicious)
        arrays = (found.sizes, found.mean, found.covariance)
        whole = [(array.dtype.name, array.shape) for array in arrays] == [
            ("int32", (count, 2)),
            ("float64", (3,)),
            ("float64", (3, 3)),
        ]
        rows = [row for row, _ in (*unreadable, *suspicious)]
        return found if whole and all(0 <= row < count for row in rows) else None
    except Exception:  # whatever numpy and zipfile meet in a damaged file: it is made anew
        return None


def _keep_survey(path: Path, made: Survey) -> None:
    """Write a survey to its file, where that can be done."""
    named: dict[str, Any] = {}
    for what, pairs in (("unreadable", made.unreadable), ("suspicious", made.suspicious)):
        named[f"{what} rows"] = np.array([row for row, _ in pairs], np.int64)
        named[f"{what} reasons"] = np.array([reason for _, reason in pairs], np.str_)
    # Nowhere to write, or a full disk, costs the next run a reading, and this one nothing.
    remove_abandoned(path.parent)
    with contextlib.suppress(UserError, OSError), written_aside(path) as aside, aside.open("wb") as file:
        np.savez(
            file,
            sizes=made.sizes,
            mean=made.mean,
            covariance=made.covariance,
            **named,
        )
