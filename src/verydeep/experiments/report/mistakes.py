"""The errors of the nets: classes that they confuse, and photographs that most of them misclassify."""

from collections import Counter
from io import BytesIO

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from verydeep.datasets.dataset import Dataset
from verydeep.errors import UserError
from verydeep.experiments.pages.document import Block, Cell, Column, Gallery, Grid, Paragraph, Picture, Section
from verydeep.experiments.plan import TRAININGS, Row
from verydeep.experiments.report.measurements import Measurements
from verydeep.experiments.report.tables import net_name

MOST_CLASSES = 20
"""Largest number of classes in a confusion matrix; with more, only the list is shown."""
_CONFUSIONS, _PHOTOGRAPHS, _PICTURES = 15, 20, 12
_SIDE = 160
"""Longest side of a picture on the page, in pixels."""


def confusion_section(found: Measurements) -> Section:
    """Make the section on confusions between classes, in the row with the lowest error."""
    row = found.best()
    if row is None:
        return Section("Confusion between classes", (Paragraph("Nothing is measured yet."),))
    shares = _confusion(found, row)
    classes = found.results.classes
    blocks: list[Block] = [
        Paragraph(
            f"For the row with the lowest top-1 error: {net_name(row)} ({found.rows[row.key].protocol}), "
            f"mean over {_count(len(found.seeds(row)), 'seed')}."
        )
    ]
    if len(classes) <= MOST_CLASSES:
        columns = (Column("class", False), *(Column(name) for name in classes))
        rows = tuple(
            (Cell(name, strong=True), *(_share(shares[i, j], i == j) for j in range(len(classes))))
            for i, name in enumerate(classes)
        )
        blocks.append(
            Grid(
                "Percentage of the images of each class (row) that are classified as each class (column)",
                columns,
                rows,
            )
        )
    return Section("Confusion between classes", (*blocks, _confusions(found, shares)))


def _confusion(found: Measurements, row: Row) -> Float64[np.ndarray, "K K"]:
    """Return the share of the images of each class classified as each class, averaged over seeds."""
    classes, labels = len(found.results.classes), found.outcomes.labels
    counts = np.zeros((classes, classes))
    for seed in found.seeds(row):
        np.add.at(counts, (labels, found.outcomes.said[row.key, seed].astype(np.int64)), 1)
    shares: Float64[np.ndarray, "K K"] = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return shares


def _share(share: float, right: bool) -> Cell:
    text = f"{100 * share:.1f}" if share else "·"
    return Cell(text, strong=right, shade=None if right else min(1.0, 5 * float(share)))


def _confusions(found: Measurements, shares: Float64[np.ndarray, "K K"]) -> Grid:
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [(int(place) // len(wrong), int(place) % len(wrong)) for place in order]
    classes = found.results.classes
    rows = tuple((classes[i], classes[j], f"{100 * wrong[i, j]:.1f}") for i, j in pairs if wrong[i, j])
    columns = (Column("class", False), Column("classified as", False), Column("% of the images of the class"))
    return Grid("Most frequent confusions", columns, rows)


def photographs_section(found: Measurements, photographs: Dataset | None) -> Section:
    """Make the section on the photographs most often misclassified, with the answer of each net.

    Args:
        found: the experiment.
        photographs: the tested photographs, in order, if the page is to show them.

    Raises:
        UserError: if they are not the photographs that were tested.
    """
    nets = found.nets()
    title = "Photographs most often misclassified"
    if not nets:
        return Section(title, (Paragraph("Nothing is measured yet."),))
    order = _hardest(found, nets)
    judged = sum(len(found.seeds(row)) for row in nets)
    times = _times_wrong(found, nets)
    classes, outcomes = found.results.classes, found.outcomes
    rows = tuple(
        (
            outcomes.names[image],
            classes[outcomes.labels[image]],
            f"{times[image]} of {judged}",
            *(_said(found, row, image) for row in nets),
        )
        for image in order
    )
    columns = (
        Column("photograph", False),
        Column("class", False),
        Column("misclassified"),
        *(Column(TRAININGS[row.nets[0].training].name, False) for row in nets),
    )
    note = (
        "Each net column gives the answer of most seeds and how many gave it, for the net's last row of Table 3. "
        "Photographs misclassified equally often are ordered by mean log-loss, highest first."
    )
    blocks: list[Block] = [Paragraph(note), Grid("", columns, rows)]
    if photographs is not None:
        blocks.append(_gallery(found, photographs, order[:_PICTURES]))
    return Section(title, tuple(blocks))


def _times_wrong(found: Measurements, nets: tuple[Row, ...]) -> np.ndarray:
    wrong = [found.outcomes.rank[row.key, seed] > 0 for row in nets for seed in found.seeds(row)]
    times: np.ndarray = np.sum(wrong, axis=0)
    return times


def _hardest(found: Measurements, nets: tuple[Row, ...]) -> list[int]:
    times = _times_wrong(found, nets)
    losses = [found.outcomes.loss[row.key, seed] for row in nets for seed in found.seeds(row)]
    loss = np.mean([each.astype(np.float64) for each in losses], axis=0)
    order = np.lexsort((-loss, -times))[:_PHOTOGRAPHS]
    return [int(image) for image in order if times[image]]


def _said(found: Measurements, row: Row, image: int) -> Cell:
    """Return the answer of most seeds; if several tie, the one that came first."""
    said = Counter(int(found.outcomes.said[row.key, seed][image]) for seed in found.seeds(row))
    ((answer, votes),) = said.most_common(1)
    right = answer == found.outcomes.labels[image]
    name = "right" if right else found.results.classes[answer]
    count = f", {votes}/{said.total()}" if said.total() > 1 else ""
    return Cell(name + count, tone="good" if right else "")


def _gallery(found: Measurements, photographs: Dataset, order: list[int]) -> Gallery:
    if len(photographs) != len(found.outcomes.names) or (photographs.labels != found.outcomes.labels).any():
        raise UserError(
            f"{photographs.name} does not contain the {len(found.outcomes.names)} photographs that were tested; "
            "pass the data set of the experiment"
        )
    names, labels, classes = found.outcomes.names, found.outcomes.labels, found.results.classes
    pictures = ((image, f"{names[image]} ({classes[labels[image]]})") for image in order)
    return Gallery(tuple(Picture(_jpeg(photographs[image].image), caption) for image, caption in pictures))


def _jpeg(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encode a photograph, at most `_SIDE` pixels per side; tiny ones, such as digits, are enlarged unsmoothed."""
    picture = Image.fromarray(pixels)
    factor = _SIDE // max(picture.size)
    if factor > 1:
        picture = picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
    picture.thumbnail((_SIDE, _SIDE))
    file = BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
