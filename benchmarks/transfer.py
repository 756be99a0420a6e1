"""Evidence for transfer (Appendix B): results/transfer/, from a folder of class folders such as Caltech-101.

It measures the mean class recall of linear classifiers, all on the same splits: of a full-size net at one scale
or at several, averaged and stacked; of miniatures alone and together; of random nets, and of raw pixels. It
compares them in pairs, draws a learning curve and the nearest neighbours, and optionally fine-tunes the nets on
the training images of the first split. An interrupted run resumes: descriptors, rows and trainings are stored.

    python benchmarks/transfer.py CALTECH --full vgg16.h5 --scales 384 512 --miniatures a d --fine-tune 60

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

from pydantic import TypeAdapter

import verydeep
from claims import RESULTS, Machine, command, machine
from transfer_rows import CROP, fine_tuned, row
from verydeep.experiments.pages.document import Block, Column, Document, Figure, Grid, Items, Paragraph, Section
from verydeep.experiments.pages.written import page_files, write_files
from verydeep.experiments.transfer_pages import curve_panel
from verydeep.linear import Aggregation
from verydeep.transfer import Described, TransferData, TransferResult, described, open_transfer_data
from verydeep.transfer.baselines import raw_pixels
from verydeep.transfer.measures import Judged, by_class, difference_interval, interval, mean
from verydeep.transfer.neighbours import draw_neighbours
from verydeep.transfer.splits import random_splits

DATA, PAGE, NEAR = "transfer.json", "README.md", "neighbours.png"
CURVE = (1, 2, 5, 10, 20, 30)
FULL_SCALE = 256
"""Q of a full-size net at one scale."""

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
    notes: tuple[str, ...] = ()


def settings(arguments: argparse.Namespace, data: TransferData) -> Iterator[tuple[str, Described]]:
    """Describe the photographs in every way that is to be measured."""
    miniatures = [verydeep.load(path) for path in arguments.miniatures]
    if arguments.full:
        full = verydeep.load(arguments.full)
        name, scales = f"full-size {full.configuration.name}", sorted({FULL_SCALE, *arguments.scales})
        for scale in sorted(scales, key=lambda each: (each != FULL_SCALE, each)):
            yield f"{name}, Q = {scale}", described(arguments.full, data, scales=[scale])
        for how in BOTH if len(scales) > 1 else ():
            several = f"{name}, Q = {', '.join(map(str, scales))}, {how}"
            yield several, described(arguments.full, data, scales=scales, aggregation=how)
        chance = verydeep.ConvNet(full.architecture)
        verydeep.initialise(chance, "he", seed=0)
        yield f"{name} with random weights, Q = {FULL_SCALE}", described(chance, data, scales=[FULL_SCALE])
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
        single = next(
            (each for each in (f"{base}, Q = {FULL_SCALE}", f"{base}, one scale") if each in names), None
        )
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


def trainings(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Yield the nets to fine-tune, with the number of epochs."""
    if arguments.fine_tune:
        yield from ((path, arguments.fine_tune) for path in arguments.miniatures)
    if arguments.fine_tune_full:
        yield arguments.full, arguments.fine_tune_full


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
    drawn = [f"miniature {verydeep.load(path).configuration.name}, one scale" for path in arguments.miniatures]
    numbers = [number for number in CURVE if number <= arguments.training_images]
    for at, (name, found) in enumerate(settings(arguments, data)):
        measured[name] = row(found, splits, arguments.training_images, arguments.runs)
        print(f"{name}: {measured[name][0]}", flush=True)
        if at == 0 or name in drawn:
            curves[name] = tuple(
                row(found, [split.fewer(data, number) for split in splits], number, arguments.runs)[0]
                for number in numbers
            )
        if at == 0:
            draw_neighbours(found, splits[0], arguments.out / NEAR)
    tuned, values = [], {}
    for path, epochs in trainings(arguments):
        architecture = verydeep.load(path).architecture
        size, linear = ("miniature", "one scale") if architecture.classes else ("full-size", f"Q = {FULL_SCALE}")
        name = f"{size} {architecture.configuration}"
        judged = fine_tuned(path, data, splits[0], epochs, arguments.runs)
        other = measured[f"{name}, {linear}"][1][0]
        own, base = (mean(by_class("class-recall", each.scores, each.labels)) for each in (judged, other))
        limits = difference_interval("class-recall", [judged], [other])
        crop = "" if architecture.classes else f" at crop {CROP}"
        label = f"{name}, fine-tuned{crop}, {epochs} epochs"
        tuned.append(Comparison(label, f"{name}, {linear}", own - base, limits))
        values[label] = own
        print(f"{label}: {own:.2%} {interval('class-recall', [judged])}", flush=True)
    return Evidence(
        command(sys.argv[: sys.argv.index("--notes")] if arguments.notes else sys.argv),
        machine(),
        {name: version(name) for name in ("verydeep", "torch", "scikit-learn")},
        datetime.now(UTC).date().isoformat(),
        tuple(Row(name, result) for name, (result, _) in measured.items()),
        tuple(compared(measured, *pair) for pair in pairs(list(measured))),
        curves,
        tuple(tuned),
        values,
        tuple(arguments.notes),
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
                *found.notes,
                f"Command: {found.command}",
                f"Machine: {found.machine.processor}, {found.machine.cores} cores. Date: {found.date}. Versions: "
                + ", ".join(f"{name} {number}" for name, number in found.versions.items()),
            )
        ),
    )
    columns = (
        Column("descriptors", False),
        Column("made by", False),
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
        note = (
            "On the first split, nets fine-tuned on the same training images, by the recipe of `verydeep train "
            "--start-from` with two drops of the rate. The miniatures train all layers. The full-size net gets "
            "new fully connected layers, which are trained alone; then all layers are, for half as many epochs. "
            f"{text}."
        )
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
    return (
        row.name,
        result.protocol,
        f"{100 * result.value:.1f}{spread}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        costs,
    )


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
    parser.add_argument("--scales", type=int, nargs="*", default=[], help="other Q of the full-size net")
    parser.add_argument("--miniatures", nargs="*", default=[], help="runs or weight files of the same crop")
    parser.add_argument(
        "--fine-tune", type=int, default=0, help="epochs of fine-tuning each miniature [default: 0]"
    )
    parser.add_argument(
        "--fine-tune-full",
        type=int,
        default=0,
        help="epochs of training new layers on the full-size net's convolutions; all layers get half as many "
        "[default: 0]",
    )
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--training-images", type=int, default=30)
    parser.add_argument("--test-images", type=int, default=50)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/transfer"), help="where rows and trainings are stored"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "transfer")
    parser.add_argument("--notes", nargs="*", default=[], help="sentences for the page; must come last")
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
