"""`verydeep transfer` (Appendix B)."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from verydeep.commands.arguments import (
    Device,
    Json,
    OptionalWhole,
    Scales,
    Skip,
    TestingPrecision,
    Whole,
    Workers,
)
from verydeep.errors import UserError
from verydeep.terminal import Cell, write_json, write_line, write_table

if TYPE_CHECKING:
    from verydeep.transfer import TransferResult


def transfer(
    weights: Annotated[list[str], Parameter(name="WEIGHTS... DATA")],
    /,
    *,
    scales: Scales = (),
    aggregation: Literal["average", "stack"] | None = None,
    splits: OptionalWhole = None,
    training_images: Annotated[Scales, Parameter(name="--training-images")] = (),
    test_images: Whole = 50,
    actions: Annotated[bool, Parameter(negative=())] = False,
    boxes: bool = True,
    save: Path | None = None,
    neighbours: Path | None = None,
    curve: Path | None = None,
    device: Device = "auto",
    precision: TestingPrecision = "fp32",
    workers: Workers = None,
    skip_unreadable: Skip = False,
    json_: Json = False,
) -> None:
    """Classify another data set by the descriptors of trained nets and a linear classifier (Appendix B).

    The nets stay as they are. Each photograph is described by the penultimate layer, averaged over the photograph
    and its mirror image at each scale. Descriptors are stored, so that the same command resumes after an
    interruption, and other splits and aggregations need no further pass. The measure is that of the data set: mean
    class recall if each photograph has one class, and VOC's mean average precision otherwise.

    For example:

    - `verydeep transfer vgg16.safetensors caltech-101`
    - `verydeep transfer runs/d runs/e VOCdevkit/VOC2007`
    - `verydeep transfer runs/d flowers --training-images 1 2 5 10 20 --curve curve.svg --neighbours near.png`
    - `verydeep transfer runs/d photographs --scales 96 --save flowers.safetensors`, and then
      `verydeep predict flowers.safetensors tulip.jpg`

    Args:
        weights: run directories or weight files, whose descriptors are stacked, followed by the data set: a folder
            of PASCAL VOC, a folder of class folders, a data set of `verydeep train`, or a CSV table with the
            columns file, classes (separated by semicolons) and, optionally, split (train, val or test).
        scales: test scales Q in pixels [default: the paper's, 256 384 512 if each photograph has one class and
            otherwise 256 384 512 640 768; for a crop other than 224, the multiples of 32 nearest to the same
            proportion].
        aggregation: over scales [default: stack if each photograph has one class, otherwise average].
        splits: number of random splits; with an official split and --training-images, of draws of its training
            images [default: 3; an official split as it is counts once].
        training_images: per class, if each photograph has one class; several numbers make a learning curve
            [default: 30; all those of an official split]. Without a split, data with several classes per
            photograph are trained on four fifths.
        test_images: the most test images per class of a random split; 0 for all the others.
        actions: classify the actions of people in a VOC folder.
        boxes: for actions: stack the descriptors of the person's box with those of the whole photograph.
        save: write the net with the classifier of the first split to this weight file, for `predict`.
        neighbours: draw test photographs and their nearest training photographs; a .png file.
        curve: draw the learning curve; an .svg file.
    """
    from verydeep.experiments.transfer_pages import check_curve, write_curve
    from verydeep.transfer import neighbours as pictures
    from verydeep.transfer import opening, procedure

    if len(weights) < 2:
        given = " ".join(weights) or "nothing"
        raise UserError(f"transfer needs at least one run or weight file, and a data set; given: {given}")
    *nets, place = weights
    data = opening.open_transfer_data(place, "actions" if actions else "classification")
    numbers: list[int | None] = [*sorted(set(training_images))] or [None]
    # Everything is checked before hours of work.
    procedure.curve_splits(data, numbers, splits, test_images or None)
    if save is not None:
        procedure.check_saving(nets, boxes and data.boxes is not None, save)
    if neighbours is not None:
        pictures.check_neighbours(neighbours)
    if curve is not None:
        check_curve(curve)
    found = procedure.described(
        nets,
        data,
        scales=scales or None,
        aggregation=aggregation,
        boxes=boxes,
        device=device,
        precision=precision,
        workers=workers,
        skip_unreadable=skip_unreadable,
    )
    results = procedure.learning_curve(found, numbers, splits=splits, test_images=test_images or None)
    split = procedure.curve_splits(found.data, numbers, splits, test_images or None)[-1][0]
    if neighbours is not None:
        pictures.draw_neighbours(found, split, neighbours)
    if curve is not None:
        write_curve(results, curve)
    if save is not None:
        procedure.save_classifier(nets[0], found, split, results[-1].splits[0].cost, save)
    if json_:
        write_json([_result_data(result) for result in results])
        return
    title = f"{results[0].data}, {results[0].protocol}"
    write_table(title, [_result_row(result) for result in results], ["C", _value_name(results[0]), "paper"])
    for path in (neighbours, curve, save):
        if path is not None:
            write_line(str(path))


def _result_data(result: "TransferResult") -> dict[str, Any]:
    return asdict(result) | {"value": result.value, "deviation": result.deviation}


def _value_name(result: "TransferResult") -> str:
    from verydeep.transfer.measures import NAMES

    return NAMES[result.measure]


def _result_row(result: "TransferResult") -> dict[str, Cell]:
    from verydeep.transfer.paper import printed_for

    images = (
        f"{result.training_images} per class" if result.training_images else f"{result.splits[0].training_images}"
    )
    low, high = result.interval
    spread = f" ± {result.deviation:.1%}" if result.deviation is not None else ""
    costs = dict.fromkeys(f"{split.cost:g}" for split in result.splits)
    row: dict[str, Cell] = {
        "training images": images,
        "test images": ", ".join(dict.fromkeys(f"{split.test_images:,}" for split in result.splits)),
        "splits": len(result.splits),
        "C": ", ".join(costs),
        _value_name(result): (f"{result.value:.1%}{spread}", f"[{low:.1%}, {high:.1%}]"),
    }
    if (paper := printed_for(result)) is not None:
        row["paper"] = f"{paper} ({' & '.join(result.nets)})"
    return row
