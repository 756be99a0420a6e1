"""Charts of transfer (Appendix B): the learning curve over training images per class."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from verydeep.errors import UserError
from verydeep.experiments.pages.charts import Axis, Panel, Point, Series, sheet
from verydeep.files import written_aside
from verydeep.transfer.measures import NAMES
from verydeep.transfer.procedure import TransferResult


def curve_panel(results: Mapping[str, Sequence[TransferResult]]) -> Panel:
    """Return the learning curves of several protocols, by name: the measure against training images per class.

    Points are means over splits, with the 95% interval about the choice of test photographs.
    """
    series = tuple(
        Series(name, tuple(_point(result) for result in each), number, "joined")
        for number, (name, each) in enumerate(results.items())
    )
    first = next(each[0] for each in results.values())
    sizes = sorted({point.x for each in series for point in each.points})
    ticks = tuple((size, f"{size:g}") for size in sizes)
    x = Axis("training images per class", ticks, logarithmic=True)
    return Panel(f"{first.data}: learning curve", x, Axis(f"{NAMES[first.measure]}, %"), series)


def write_curve(results: Sequence[TransferResult], path: str | os.PathLike[str]) -> None:
    """Write a learning curve as an .svg file.

    Raises:
        UserError: if the file is not an .svg or cannot be written.
    """
    check_curve(path)
    drawn = sheet([curve_panel({results[0].protocol: results})])
    with written_aside(Path(path)) as aside:
        aside.write_text(drawn, encoding="utf-8", newline="\n")


def check_curve(path: str | os.PathLike[str]) -> None:
    """Refuse a file that `write_curve` cannot write, before any work is done.

    Raises:
        UserError: if it is not an .svg.
    """
    if Path(path).suffix.lower() != ".svg":
        raise UserError(f"{os.fspath(path)}: the name of the learning curve must end in .svg")


def _point(result: TransferResult) -> Point:
    images = result.training_images or result.splits[0].training_images // len(result.classes)
    low, high = result.interval
    return Point(float(images), 100 * result.value, 100 * low, 100 * high, str(result))
