"""Read every photograph of a data set once: sizes, unreadable files, mean colour and covariance.

The preprocessing (mean colour, Sect. 2.1) and augmentation (colour shift, Sect. 3.1) of the paper need these
statistics. They are computed once per data set and kept.
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
"""The most rows and columns of an image's pixels that enter the mean colour."""

SURVEY_FORMAT = 2
"""Increased whenever surveys kept by an earlier version become invalid."""

_BLOCK = 16
"""Photographs per task of a thread: one future per photograph would take gigabytes for 1.28 million of them."""


@dataclass(frozen=True, eq=False)
class Survey:
    """The statistics of a data set; mean and covariance are NaN if no photograph is readable."""

    sizes: Int32[np.ndarray, "N 2"]
    """Full width and height of each upright photograph; 0, 0 if it is unreadable."""
    unreadable: tuple[tuple[int, str], ...]
    """Index and reason (a line that names the file) of each unreadable photograph."""
    mean: Float64[np.ndarray, "3"]
    """Mean RGB in 0..255; each photograph counts equally, whatever its size."""
    covariance: Float64[np.ndarray, "3 3"]
    """Covariance of RGB about that mean; each photograph counts equally."""
    suspicious: tuple[tuple[int, str], ...] = ()
    """Index and reason (a line that names the file) of each photograph that may have lost part of its pixels."""


def survey(dataset: Dataset, workers: int = 0, progress: bool = True) -> Survey:
    """Read every photograph of a data set once, or load the survey of an earlier reading of the same files.

    Colours are taken from a regular grid of at most 256 x 256 pixels of each photograph. `workers` is the number
    of threads (0: one per processor); the result does not depend on it. The survey is kept in the user's cache
    folder, under a key of paths, file sizes and modification times. If that folder is not writable, the
    photographs are read again each time. Unreadable photographs are part of the result, not an error.

    Raises:
        UserError: if `workers` is negative.
    """
    if workers < 0:
        raise UserError(f"workers: {workers} given; it must be 1 or more, or 0 for one per processor")
    kept_as = _kept_as(dataset)
    kept = _load_survey(kept_as, len(dataset)) if kept_as else None
    # A file can become readable without a change of its size or time (permissions, a network drive).
    if kept and all(_read(dataset.photographs[index]).reason == reason for index, reason in kept.unreadable):
        return kept
    made = _make_survey(dataset, workers or os.cpu_count() or 1, progress)
    if kept_as:
        _keep_survey(kept_as, made)
    return made


def principal_components(
    covariance: Float64[np.ndarray, "3 3"],
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3 3"]]:
    """Return the standard deviations along the principal components of colour, and the components as unit vectors.

    The largest comes first; `components[i]`, a row, belongs to `deviations[i]`. The sign of a component is chosen
    so that its largest absolute entry (the first of equals) is positive, and does not depend on LAPACK.
    """
    variances, columns = np.linalg.eigh(covariance)
    variances, components = variances[::-1], columns.T[::-1]
    # Grey images have variances of 0, which rounding makes tiny or negative.
    variances = np.where(variances > 1e-12 * abs(variances).max(), variances, 0.0)
    sizes = abs(components)
    largest = np.argmax(sizes >= sizes.max(axis=1, keepdims=True) - 1e-6, axis=1)
    return np.sqrt(variances), components * np.sign(components[np.arange(3), largest])[:, None]


def unreadable_at(dataset: Dataset, survey: Survey, scale: int) -> Survey:
    """Return the survey with photographs too elongated to rescale to a shortest side counted as unreadable."""
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
    """Return both without the unreadable photographs; unchanged, if there are none.

    Raises:
        UserError: if there are some and `skip` is false, or if a class would lose its last photograph.
    """
    if not survey.unreadable:
        return dataset, survey
    reason, count = survey.unreadable[0][1], len(survey.unreadable)
    if not skip:
        raise UserError(
            f"{dataset.name}: {count} of {len(dataset)} photographs cannot be read, the first: {reason}; "
            "repair or remove them (verydeep inspect lists them), or leave them out with --skip-unreadable"
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
    """One photograph: its size and the means of its RGB values and of their products, or why it is unreadable."""

    size: tuple[int, int] = (0, 0)
    mean: np.ndarray | None = None
    moment: np.ndarray | None = None
    reason: str = ""
    doubt: str = ""
    """Why the pixels may be incomplete; empty if there is no sign of it."""


def _read(photograph: Photograph) -> _Reading:
    try:
        (pixels, size), doubt = examine(photograph, shortest=SURVEY_SIDE)
    except ImageError as error:
        return _Reading(reason=str(error))
    steps = (-(-side // SURVEY_SIDE) for side in pixels.shape[:2])
    # Sums of at most 2**16 products of bytes are exact in float64, in any order.
    colours = pixels[tuple(slice(None, None, step) for step in steps)].reshape(-1, 3).astype(np.float64)
    if doubt:
        doubt = f"{photograph}: {doubt}"
    return _Reading(size, colours.sum(axis=0) / len(colours), colours.T @ colours / len(colours), doubt=doubt)


def _make_survey(dataset: Dataset, workers: int, progress: bool) -> Survey:
    sizes = np.zeros((len(dataset), 2), np.int32)
    unreadable, suspicious = [], []
    mean, moment = np.zeros(3), np.zeros((3, 3))
    readings = _readings(dataset.photographs, workers)
    # In the order of the photographs, whichever thread ends first: float sums depend on the order.
    for index, reading in enumerate(
        track(readings, f"Reading {dataset.name}", total=len(dataset), enabled=progress)
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
        pool.shutdown(cancel_futures=True)  # an interrupted survey ends now, not after the last photograph


# Surveys that are kept


def _kept_as(dataset: Dataset) -> Path | None:
    """Return the file in which to keep the survey of a data set; None if the user has no home folder."""
    cache = cache_folder()
    if cache is None:
        return None
    key = hashlib.sha256(f"verydeep survey {SURVEY_FORMAT} {fingerprint(dataset)}".encode())
    return cache / "surveys" / f"{key.hexdigest()}.npz"


def _load_survey(path: Path, count: int) -> Survey | None:
    """Return the survey kept in a file; None if there is none or it is damaged."""
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
    except Exception:  # numpy and zipfile raise anything on a damaged file: the survey is made again
        return None


def _keep_survey(path: Path, made: Survey) -> None:
    """Write a survey to its file, if possible."""
    named: dict[str, Any] = {}
    for what, pairs in (("unreadable", made.unreadable), ("suspicious", made.suspicious)):
        named[f"{what} rows"] = np.array([row for row, _ in pairs], np.int64)
        named[f"{what} reasons"] = np.array([reason for _, reason in pairs], np.str_)
    # If it cannot be written, only the next run pays: it reads the photographs again.
    remove_abandoned(path.parent)
    with contextlib.suppress(UserError, OSError), written_aside(path) as aside, aside.open("wb") as file:
        np.savez(
            file,
            sizes=made.sizes,
            mean=made.mean,
            covariance=made.covariance,
            **named,
        )
