"""Evidence for transfer (Appendix B): results/transfer/, from a folder of class folders such as Caltech-101.

It measures the mean class recall of linear classifiers, all on the same splits: of a full-size net at one scale
or at three, averaged and stacked; of miniatures alone and together; of random nets, and of raw pixels. It
compares them in pairs, draws a learning curve and the nearest neighbours, and optionally fine-tunes the
miniatures on the training images of the first split. An interrupted run resumes: descriptors are stored, and so
are trainings.

    python benchmarks/transfer.py CALTECH --full vgg16.h5 --miniatures runs/a runs/d --fine-tune 30

`--page` makes the page again from transfer.json.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

import verydeep
from claims import RESULTS, Machine, command, machine
from verydeep.datasets.dataset import selected
from verydeep.experiments.pages.document import Block, Column, Document, Figure, Grid, Items, Paragraph, Section
from verydeep.experiments.pages.written import page_files, write_files
from verydeep.experiments.transfer_pages import curve_panel
from verydeep.linear import Aggregation
from verydeep.transfer import Described, TransferData, TransferResult, described, open_transfer_data
from verydeep.transfer.baselines import raw_pixels
from verydeep.transfer.measures import Judged, by_class, difference_interval, interval, mean
from verydeep.transfer.neighbours import draw_neighbours
from verydeep.transfer.procedure import judged_on, learning_curve
from verydeep.transfer.splits import Split, random_splits

DATA, PAGE, NEAR = "transfer.json", "README.md", "neighbours.png"
CURVE = (1, 2, 5, 10, 20, 30)
BOTH: tuple[Aggregation, ...] = ("average", "stack")


@dataclass(frozen=True)
class Row:
    """One way to describe photographs, measured."""

    name: str
    result: TransferResult


@dataclass(frozen=True)
class Comparison:
    """How much the mean class recall of one row exceeds that of another on the same photographs."""

    first: str
    second: str
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Evidence:
    """Everything on the page."""

    command: str
    machine: Machine
    versions: dict[str, str]
    date: str
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    curves: dict[str, tuple[TransferResult, ...]]
    fine_tuned: tuple[Comparison, ...] = ()
    """Fine-tuning against the linear classifier on the same descriptors' net, on the first split."""
    values: dict[str, float] = field(default_factory=dict)
    """Mean class recall of each fine-tuned net on the first split."""


def settings(arguments: argparse.Namespace, data: TransferData) -> Iterator[tuple[str, Described]]:
    """Describe the photographs in every way that is to be measured."""
    miniatures = [verydeep.load(path) for path in arguments.miniatures]
    if arguments.full:
        full = verydeep.load(arguments.full)
        name = full.configuration.name
        for scales in ([256], [384], [512])[: 3 if arguments.three else 1]:
            yield f"{name}, Q = {scales[0]}", described(arguments.full, data, scales=scales)
        for how in BOTH if arguments.three else ():
            yield (
                f"{name}, three scales, {how}",
                described(arguments.full, data, scales=[256, 384, 512], aggregation=how),
            )
        chance = verydeep.ConvNet(full.architecture)
        verydeep.initialise(chance, "he", seed=0)
        yield f"{name} with random weights, Q = 256", described(chance, data, scales=[256])
    for path, net in zip(arguments.miniatures, miniatures, strict=True):
        name, crop = f"miniature {net.configuration.name}", net.crop
        yield f"{name}, one scale", described(path, data, scales=[crop])
        three = [crop, crop + 32, crop + 64]
        for how in BOTH:
            yield f"{name}, three scales, {how}", described(path, data, scales=three, aggregation=how)
        chance = verydeep.ConvNet(net.architecture)
        verydeep.initialise(chance, "he", seed=0)
        yield f"{name} with random weights, one scale", described(chance, data, scales=[crop])
    if len(miniatures) > 1:
        crop = miniatures[0].crop
        yield "miniatures together, one scale", described(arguments.miniatures, data, scales=[crop])
        three = [crop, crop + 32, crop + 64]
        yield (
            "miniatures together, three scales, stack",
            described(arguments.miniatures, data, scales=three, aggregation="stack"),
        )
    yield "raw pixels", raw_pixels(data)


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return which rows to compare: three scales with one, stack with average, two nets with one, baselines."""
    for name in names:
        base = name.split(",")[0]
        single = next((each for each in (f"{base}, Q = 256", f"{base}, one scale") if each in names), None)
        if name.endswith(("average", "stack")) and single:
            yield name, single
        if name.endswith("stack") and (average := name.replace("stack", "average")) in names:
            yield name, average
        if name == single:
            for baseline in (name.replace(",", " with random weights,"), "raw pixels"):
                if baseline in names:
                    yield name, baseline
        if name.startswith("miniatures together"):
            rest = name.partition(",")[2]
            yield from (
                (name, each)
                for each in names
                if each.startswith("miniature ") and each.partition(",")[2] == rest and "random" not in each
            )


def fine_tuned(path: str, data: TransferData, split: Split, epochs: int, runs: Path) -> Judged:
    """Fine-tune a net on the training images of a split, and judge its test images."""
    own = data.labels.argmax(1).astype(np.int64)
    parts = [
        verydeep.Dataset(f"{data.name}/{name}", data.classes, selected(data.photographs, rows), own[rows])
        for name, rows in (("train", np.sort(split.train)), ("test", split.test))
    ]
    net = verydeep.load(path)
    recipe = verydeep.Recipe(
        net=net.configuration.name,
        start_from=path,
        batch=64,
        epochs=epochs,
        drop_after=tuple(sorted({max(1, round(share * epochs)) for share in (0.6, 0.85)})),
    )
    run = verydeep.train(parts[0], recipe, runs / net.configuration.name, validation=parts[1])
    scores = verydeep.posteriors(verydeep.load(run), parts[1])
    return Judged(split.test, scores, data.labels[split.test])


def compared(
    measured: dict[str, tuple[TransferResult, tuple[Judged, ...]]], first: str, second: str
) -> Comparison:
    (one, judged), (other, judged_other) = measured[first], measured[second]
    limits = difference_interval(one.measure, judged, judged_other)
    return Comparison(first, second, one.value - other.value, limits)


def evidence(arguments: argparse.Namespace) -> Evidence:
    """Measure everything; draws the nearest neighbours, too."""
    data = open_transfer_data(arguments.folder)
    splits = random_splits(data, arguments.splits, arguments.training_images, arguments.test_images)
    measured: dict[str, tuple[TransferResult, tuple[Judged, ...]]] = {}
    curves: dict[str, tuple[TransferResult, ...]] = {}
    numbers = [number for number in CURVE if number <= arguments.training_images]
    for at, (name, found) in enumerate(settings(arguments, data)):
        measured[name] = judged_on(found, splits, arguments.training_images)
        print(f"{name}: {measured[name][0]}", flush=True)
        if at == 0 or name.endswith("one scale") or name == "raw pixels":
            curves[name] = tuple(
                learning_curve(found, numbers, splits=arguments.splits, test_images=arguments.test_images)
            )
        if at == 0:
            draw_neighbours(found, splits[0], arguments.out / NEAR)
    tuned, values = [], {}
    for path in arguments.miniatures if arguments.fine_tune else ():
        name = f"miniature {verydeep.load(path).configuration.name}"
        judged = fine_tuned(path, data, splits[0], arguments.fine_tune, arguments.runs)
        linear = measured[f"{name}, one scale"][1][0]
        own, other = (mean(by_class("class-recall", each.scores, each.labels)) for each in (judged, linear))
        limits = difference_interval("class-recall", [judged], [linear])
        tuned.append(Comparison(f"{name}, fine-tuned", f"{name}, one scale", own - other, limits))
        values[f"{name}, fine-tuned"] = own
        print(f"{name}, fine-tuned: {own:.2%} {interval('class-recall', [judged])}", flush=True)
    return Evidence(
        command(sys.argv),
        machine(),
        {name: version(name) for name in ("verydeep", "torch", "scikit-learn")},
        datetime.now(UTC).date().isoformat(),
        tuple(Row(name, result) for name, (result, _) in measured.items()),
        tuple(compared(measured, *pair) for pair in pairs(list(measured))),
        curves,
        tuple(tuned),
        values,
    )


def page(found: Evidence) -> Document:
    """Lay out the page."""
    first = found.rows[0].result
    split = first.splits[0]
    lead: tuple[Block, ...] = (
        Items(
            (
                f"Data: {first.data}, {len(first.classes)} classes; {first.training_images} training images per "
                f"class; {split.test_images:,} test images; {len(first.splits)} random splits, the same for every "
                "row.",
                "Protocol of Appendix B: the penultimate layer averaged over the map and the mirror image, of "
                "length 1; a linear SVM per class, with C chosen on a held-out fifth of the training images.",
                "± is the standard deviation over splits. Intervals are 95% bootstrap intervals about the choice "
                "of test photographs. A difference is significant if its interval does not contain 0.",
                f"Command: {found.command}",
                f"Machine: {found.machine.processor}, {found.machine.cores} cores. Date: {found.date}. Versions: "
                + ", ".join(f"{name} {number}" for name, number in found.versions.items()),
            )
        ),
    )
    columns = (
        Column("descriptors", False),
        Column("mean class recall, %"),
        Column("95% interval"),
        Column("C", False),
    )
    rows = tuple(_row(row) for row in found.rows)
    sections = [
        Section("Mean class recall", (Grid("", columns, rows),)),
        Section("Differences", (_differences(found.comparisons),)),
    ]
    if found.fine_tuned:
        text = "; ".join(f"{name}: {100 * value:.1f}%" for name, value in found.values.items())
        note = f"On the first split, all layers fine-tuned on the same training images. {text}."
        sections.append(
            Section("Fine-tuning and the linear classifier", (Paragraph(note), _differences(found.fine_tuned)))
        )
    caption = "By training images per class, on the same test images."
    sections.append(Section("Learning curve", (Figure("learning-curve", caption, (curve_panel(found.curves),)),)))
    near = f"Test photographs with their nearest training photographs are in {NEAR}."
    sections.append(Section("Nearest neighbours", (Paragraph(near),)))
    return Document("Transfer to another data set", lead, tuple(sections))


def _row(row: Row) -> tuple[str, ...]:
    result = row.result
    low, high = result.interval
    spread = f" ± {100 * result.deviation:.1f}" if result.deviation is not None else ""
    costs = ", ".join(dict.fromkeys(f"{split.cost:g}" for split in result.splits))
    return row.name, f"{100 * result.value:.1f}{spread}", f"{100 * low:.1f} to {100 * high:.1f}", costs


def _differences(comparisons: Sequence[Comparison]) -> Grid:
    columns = (Column("", False), Column("compared with", False), Column("points"), Column("95% interval"))
    rows = tuple(
        (
            each.first,
            each.second,
            f"{100 * each.difference:+.1f}",
            f"{100 * each.interval[0]:+.1f} to {100 * each.interval[1]:+.1f}",
        )
        for each in comparisons
    )
    return Grid("", columns, rows)


def read(folder: Path) -> Evidence:
    """Read transfer.json."""
    return TypeAdapter(Evidence).validate_json((folder / DATA).read_bytes())


def write_page(folder: Path) -> None:
    """Make the page from transfer.json."""
    write_files(page_files(page(read(folder)), folder / PAGE))


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of class folders")
    parser.add_argument("--full", help="a run or weight file of a full-size net, such as the authors' D")
    parser.add_argument("--three", action="store_true", help="the full-size net also at Q = 384 and 512")
    parser.add_argument("--miniatures", nargs="*", default=[], help="runs or weight files of the same crop")
    parser.add_argument(
        "--fine-tune", type=int, default=0, help="epochs of fine-tuning each miniature [default: 0]"
    )
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--training-images", type=int, default=30)
    parser.add_argument("--test-images", type=int, default=50)
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"), help="where to fine-tune")
    parser.add_argument("--out", type=Path, default=RESULTS / "transfer")
    parser.add_argument("--page", action="store_true", help="only make the page again")
    arguments = parser.parse_args(words)
    if not arguments.page and (arguments.folder is None or not (arguments.full or arguments.miniatures)):
        parser.error("pass a folder of class folders, and --full or --miniatures")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    arguments = options(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.page:
        found: dict[str, Any] = asdict(evidence(arguments))
        (arguments.out / DATA).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_page(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
