"""The charts of an experiment: training curves, and errors by depth, number of test scales and Q."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from verydeep.configurations import CONFIGURATIONS
from verydeep.experiments.pages.charts import Axis, Panel, Point, Series, same_length
from verydeep.experiments.pages.document import Figure
from verydeep.experiments.plan import FIXED, JITTERED, LARGE, TABLES, TRAININGS, Method, Row, Tested
from verydeep.experiments.report.measurements import Measurements
from verydeep.experiments.report.tables import interval, percent, pixels
from verydeep.experiments.results import Curve

_HUES = {"A": 0, "B": 1, "D": 2, "C": 3, "A-LRN": 4, "E": 6, "B-5x5": 7}
"""By net, the same in all charts that compare nets."""
_SCALES = {FIXED: 0, LARGE: 1, JITTERED: 2}
"""By the paper's S, the same in all charts that compare S."""
_DEPTHS = ("A", "B", "C", "D", "E")
_ERROR = "top-1 error, %"
_APART = 0.1
"""Horizontal distance between the markers of different series at the same x."""


# Curves


def curve_figures(found: Measurements) -> tuple[Figure, ...]:
    """Draw the validation error and the loss of each training, one panel per net."""
    curves = found.results.curves
    if not any(curve.loss for curve in curves):
        return ()
    across = (
        " by epoch. Fine-tuned nets have a panel of their own and continue the epoch count of the training they "
        "start from. Lines are means over seeds; bands extend from the lowest to the highest seed. Dashed lines "
        "are controls, trained for comparison only."
    )
    protocols = sorted({curve.validation_protocol for curve in curves if curve.validation_protocol})
    validated = "held-out" if found.results.held_out_images else "tested"
    measured = f"Top-1 error on the {validated} images ({'; '.join(protocols)})"

    def panels(label: str, values: Callable[[Curve], Sequence[float]], factor: int) -> tuple[Panel, ...]:
        return tuple(
            panel
            for net in CONFIGURATIONS
            for further in (False, True)
            if (panel := _curves(net, further, curves, label, values, factor)).series
        )

    return (
        Figure("curves", measured + across, panels(_ERROR, lambda curve: curve.validation_error, 100)),
        Figure("loss", "Training loss" + across, panels("loss", lambda curve: curve.loss, 1)),
    )


def _curves(
    net: str,
    further: bool,
    curves: Sequence[Curve],
    label: str,
    values: Callable[[Curve], Sequence[float]],
    factor: int,
) -> Panel:
    """Draw the trainings of a net: its fine-tunings, or those from random weights or another net."""
    of_net = [curve for curve in curves if curve.net == net and curve.loss]
    names = [name for name in TRAININGS if any(curve.training == name for curve in of_net)]
    series = []
    for name in names:
        if (_epochs_before(next(curve for curve in of_net if curve.training == name), of_net) > 0) != further:
            continue
        seeds = [curve for curve in of_net if curve.training == name]
        epochs = min(len(values(curve)) for curve in seeds)  # reached by all seeds
        table = factor * np.array([values(curve)[:epochs] for curve in seeds])
        before = _epochs_before(seeds[0], of_net)
        several = len(seeds) > 1
        points = tuple(
            Point(
                float(before + epoch + 1),
                float(column.mean()),
                float(column.min()) if several else None,
                float(column.max()) if several else None,
            )
            for epoch, column in enumerate(table.T)
        )
        hue = 4 if TRAININGS[name].learns else _SCALES[TRAININGS[name].scale]
        series.append(Series(name, points, hue, "curve", TRAININGS[name].control))
    title = f"Net {net}, fine-tuned" if further else f"Net {net}"
    if len(series) == 1 and series[0].label != net:
        title += f": {series[0].label}"
    return Panel(title, Axis("epoch"), Axis(label), tuple(series))


def _epochs_before(curve: Curve, of_net: Sequence[Curve]) -> int:
    """Return the epochs of the training that this one starts from, if that is of the same net."""
    parents = [each for each in of_net if each.training == curve.start]
    if not parents:
        return 0
    return _epochs_before(parents[0], of_net) + max(len(parent.loss) for parent in parents)


# Errors


def depth_figure(found: Measurements) -> Figure | None:
    """Draw the error by depth: with several test methods at one S, for each S, and in the paper."""
    methods: tuple[Method, ...] = ("dense", "centre-crop", "windows")
    by_method = [
        _over_nets(label, [Row((Tested(net, FIXED),), method) for net in _DEPTHS], found, number)
        for number, (method, label) in enumerate(
            zip(methods, ("dense", "centre crop", "windows as crops"), strict=True)
        )
    ]
    control = Row((Tested("A-longer", FIXED),), "dense")
    if (point := _point(control, found, 0.5)) is not None:
        by_method.append(Series("A trained equally long, dense", (point,), 7, "marks", dashed=True))
    by_scale = {scale: [row for row in TABLES["table3"].rows if _trained(row, scale)] for scale in _SCALES}
    ours = [
        _over_nets(f"S = {_here(scale, found)}", rows, found, _SCALES[scale]) for scale, rows in by_scale.items()
    ]
    paper = [_over_nets(f"S = {pixels(scale)}", rows, None, _SCALES[scale]) for scale, rows in by_scale.items()]
    depths = tuple(
        (float(place), f"{net} ({CONFIGURATIONS[net].weight_layers})") for place, net in enumerate(_DEPTHS)
    )
    x = Axis("net (weight layers)", depths, (-0.5, len(_DEPTHS) - 0.5))
    fixed = _here(FIXED, found)
    first = _panel(f"Here, S = Q = {fixed}, by test method", x, by_method)
    scales = [_panel("Here, dense, one test scale (Table 3)", x, ours), _panel("The paper, Table 3", x, paper)]
    if not first.series and not scales[0].series:
        return None
    return Figure(
        "depth",
        "Top-1 error by depth. Whiskers extend from the lowest to the highest seed. For intervals over images, "
        "which are the same for all nets, see the tables. The vertical axes of the second and third panels span "
        "equal ranges.",
        (first, *same_length(scales)),
    )


def scales_figure(found: Measurements) -> Figure | None:
    """Draw the error with one test scale and with several, next to the paper's."""
    here, paper = [], []
    for scale in _SCALES:
        pairs = []
        for several in TABLES["table4"].rows:
            training = several.nets[0].training
            one = [row for row in TABLES["table3"].rows if row.nets[0].training == training]
            if one and _trained(several, scale):
                pairs.append((training, (one[0], several)))
        x = Axis("number of test scales", ((1.0, "1"), (3.0, "3")), (0.5, 3.5))
        here.append(_panel(f"Here, S = {_here(scale, found)}", x, _slopes(pairs, found)))
        paper.append(_panel(f"The paper, S = {pixels(scale)}", x, _slopes(pairs, None)))
    if not any(panel.series for panel in here):
        return None
    return Figure(
        "scales",
        "Top-1 error of dense testing with one test scale (Table 3) and with three (Table 4). Whiskers extend "
        "from the lowest to the highest seed. The vertical axes of all panels span equal ranges.",
        same_length([*here, *paper]),
    )


def test_scale_figure(found: Measurements) -> Figure | None:
    """Draw the error by test scale Q, for nets tested at several scales one at a time."""
    panels = []
    for scale in _SCALES:
        trainings = [each for each in TRAININGS.values() if each.scale == scale and not each.control]
        lines = [(training.net, _over_scales(training.name, found)) for training in trainings]
        series = [Series(net, points, _HUES[net], "joined") for net, points in lines if len(points) > 1]
        if series:
            ticks = sorted({point.x for each in series for point in each.points})
            x = Axis("test scale Q, pixels", tuple((tick, f"{tick:g}") for tick in ticks))
            panels.append(_panel(f"S = {_here(scale, found)}", x, series))
    if not panels:
        return None
    return Figure(
        "q",
        "Top-1 error of dense testing by test scale Q, one scale at a time. Whiskers extend from the lowest to "
        "the highest seed. The vertical axes of all panels span equal ranges.",
        same_length(panels),
    )


def _over_scales(training: str, found: Measurements) -> tuple[Point, ...]:
    """Return a net's error at each single scale of dense testing."""
    rows = (row for table in TABLES.values() for row in table.rows)
    tested = (row.nets[0] for row in rows if len(row.nets) == 1 and row.method == "dense")
    scales = sorted({each.scales[0] for each in tested if each.training == training and len(each.scales) == 1})
    places = [(q, float(place)) for q in scales if (place := found.pixels(q)) is not None]
    points = (_point(Row((Tested(training, (q,)),)), found, place) for q, place in places)
    return tuple(point for point in points if point is not None)


def _panel(title: str, x: Axis, series: Sequence[Series]) -> Panel:
    return Panel(title, x, Axis(_ERROR), tuple(each for each in series if each.points))


def _trained(row: Row, scale: tuple[int, ...]) -> bool:
    return TRAININGS[row.nets[0].training].scale == scale


def _here(scale: tuple[int, ...], found: Measurements) -> str:
    here = tuple(found.pixels(value) or value for value in scale)
    return pixels(here)


def _over_nets(label: str, rows: Sequence[Row], found: Measurements | None, number: int) -> Series:
    points = []
    for row in rows:
        net = TRAININGS[row.nets[0].training].net
        if (
            net in _DEPTHS
            and (point := _point(row, found, _DEPTHS.index(net) + _APART * (number - 1))) is not None
        ):
            points.append(point)
    return Series(label, tuple(points), number, "joined", dashed=found is None)


def _slopes(pairs: Sequence[tuple[str, tuple[Row, Row]]], found: Measurements | None) -> list[Series]:
    series = []
    for number, (training, rows) in enumerate(pairs):
        net = TRAININGS[training].net
        aside = _APART * (number - (len(pairs) - 1) / 2)
        points = [
            replace(point, x=point.x + aside)
            for row in rows
            if (point := _point(row, found, float(len(row.nets[0].scales)))) is not None
        ]
        series.append(Series(net, tuple(points), _HUES[net], "joined", dashed=found is None))
    return series


def _point(row: Row, found: Measurements | None, x: float) -> Point | None:
    """Return a row's measured error in percent, or the paper's if there is no experiment."""
    name = row.nets[0].training
    if found is None:
        paper = row.printed.top1
        return None if paper is None else Point(x, paper, note=f"{name}: {paper}% in the paper")
    error = found.error(row)
    if error is None:
        return None
    seeds = f"{len(error.seeds)} seed{'' if len(error.seeds) == 1 else 's'}"
    note = f"{name}: {percent(error)}% (95% interval {interval(error)}), {seeds}"
    several = len(error.seeds) > 1
    low, high = (100 * min(error.seeds), 100 * max(error.seeds)) if several else (None, None)
    return Point(x, 100 * error.mean, low, high, note)
