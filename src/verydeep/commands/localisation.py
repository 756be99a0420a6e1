"""`verydeep localise`: train, test and use box regressors (Appendix A)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from verydeep import recipe as recipes
from verydeep.commands.arguments import (
    Deterministic,
    Device,
    Json,
    Photographs,
    Precision,
    RecipeFlags,
    Scales,
    Skip,
    TestingPrecision,
    Whole,
    Workers,
    listed_photographs,
)
from verydeep.errors import UserError
from verydeep.recipe import Recipe
from verydeep.terminal import Cell, first_rank, write_json, write_line, write_table

if TYPE_CHECKING:
    from verydeep.evaluation.metrics import Error
    from verydeep.localisation.prediction import Located
    from verydeep.localising import BoxPrediction, BoxResult

localise = App(
    name="localise",
    help="Train, test and use nets that predict the boxes of objects (Appendix A).",
    help_format="markdown",
)

Folder = Annotated[
    Path | None,
    Parameter(
        help="the folder of the photographs that a CSV file or XML files name [default: the folder of the CSV "
        "file, or JPEGImages next to the folder of XML files]"
    ),
]
Several = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=(), show_default=False)]


@localise.command
def train(
    data: str,
    /,
    *,
    out: Path,
    regression: Literal["SCR", "PCR"] = "PCR",
    photographs: Folder = None,
    recipe: Path | None = None,
    flags: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    micro_batch: Whole = 0,
    workers: Workers = None,
    deterministic: Deterministic = False,
    skip_unreadable: Skip = False,
) -> None:
    """Train a net to predict the box of an object, or resume a training that was interrupted.

    Start from a classification net that was trained at the same S: net, crop, width and S are then those of that
    net. fc8 is trained from scratch, at a learning rate of 1e-3 unless another is given. The same command resumes
    the training, and continues it if `--epochs` is higher.

    For example:

    - `verydeep localise train boxes.csv --start-from runs/d --out runs/d-boxes`
    - `verydeep localise train boxes.csv --start-from runs/d --learns fc6 fc7 fc8 --regression SCR --out runs/scr`
    - `verydeep localise train VOC2012/Annotations --start-from runs/d --out runs/voc-boxes`
    - `verydeep localise train digits --net A --crop 32 --width 0.25 --fully-connected 128 --initialisation glorot
      --batch 32 --learning-rate 0.02 --epochs 10 --no-flip --out runs/digit-boxes`

    Args:
        data: a CSV file with the columns file, x0, y0, x1, y1, class and, optionally, width and height (the size
            that the edges refer to) and split (train or val); a folder of XML files in the format of PASCAL VOC or
            ILSVRC; or "digits", which makes photographs of digits.
        out: the run directory to create or resume.
        regression: SCR: one box shared by all classes; PCR: one box per class.
        recipe: a TOML file of recipe fields; flags override it.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
    """
    from verydeep.localising import train_boxes

    chosen = recipes.changed(recipes.read(recipe) if recipe else Recipe(), dict(flags or {}))
    run = train_boxes(
        data,
        chosen,
        out,
        regression=regression,
        photographs=photographs,
        device=device,
        precision=precision,
        workers=workers,
        micro_batch=micro_batch,
        deterministic=deterministic,
        skip_unreadable=skip_unreadable,
    )
    if first_rank():
        test_it = f"verydeep localise test {run.path} {data}"
        write_line(f"trained: {run.path / 'weights.safetensors'}; test it with: {test_it}")


@localise.command
def test(
    runs: Annotated[list[str], Parameter(name="RUN... DATA")],
    /,
    *,
    classifier: Several = (),
    scales: Scales = (),
    photographs: Folder = None,
    device: Device = "auto",
    precision: TestingPrecision = "fp32",
    workers: Workers = None,
    skip_unreadable: Skip = False,
    json_: Json = False,
) -> None:
    """Test box regressors on the validation photographs, beside two boxes that need no net.

    A box is right if it overlaps a true box of its class by more than half (intersection over union). Without
    `--classifier`, the class is given and only the centre crop is used. With it, the nets run densely over the
    whole photograph, and class and box must both be right; several regressors are tested alone and together.

    For example:

    - `verydeep localise test runs/d-boxes boxes.csv`
    - `verydeep localise test runs/d-boxes boxes.csv --classifier runs/d --scales 352 384`
    - `verydeep localise test runs/d-256 runs/d-384 boxes.csv --classifier runs/c-256 runs/c-384 --json`

    Args:
        runs: run directories or weight files of box regressors, followed by the data, as for `verydeep localise
            train`.
        classifier: classification nets: one for all regressors, or one for each, in order.
        scales: test scales Q in pixels; one without `--classifier` [default: S of each regressor].
    """
    from verydeep.localising import test_boxes

    if len(runs) < 2:
        raise UserError(f"test needs at least one run and the boxes; given: {' '.join(runs) or 'nothing'}")
    *sources, data = runs
    results = test_boxes(
        sources,
        data,
        scales or None,
        list(classifier),
        photographs=photographs,
        device=device,
        precision=precision,
        workers=workers,
        skip_unreadable=skip_unreadable,
    )
    if first_rank() and json_:
        write_json([_result_data(result) for result in results])
    elif first_rank():
        rows = [row for result in results for row in _result_rows(result)]
        write_table(f"localisation error, {results[0].top1.images} images of {data}", rows)


@localise.command
def predict(
    run: str,
    /,
    *images: Photographs,
    classifier: str,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    scales: Scales = (),
    top: Whole = 5,
    device: Device = "auto",
    precision: TestingPrecision = "fp32",
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Show the most likely classes of photographs with their boxes, and draw them.

    The picture shows the boxes over the photograph and, next to it, where the classifier sees the most likely
    class.

    For example:

    - `verydeep localise predict runs/d-boxes tom.jpg --classifier runs/d -o tom-boxes.png`
    - `verydeep localise predict runs/d-boxes 'photographs/*.jpg' --classifier runs/d --top 1 -o drawn`
    - `verydeep localise predict runs/d-boxes tom.jpg --classifier runs/d --scales 352 384 --json`

    Args:
        run: the run directory or weight file of a box regressor.
        images: JPEG, PNG or WebP: files, folders (searched recursively), patterns such as '*.jpg', or - for a list
            of paths on standard input.
        classifier: the run directory or weight file of a classification net.
        out: a .png file for one photograph, or a folder for any number.
        scales: test scales Q in pixels [default: S of the regressor].
        top: number of classes per photograph.
    """
    from verydeep.localising import draw_predictions, pictures, predict_boxes

    photographs = listed_photographs(images, "predict needs a run and at least one image; no image was given")
    given = list(photographs)
    if out is not None:
        pictures(out, [str(each) for each in given])  # refused before any work
    predictions = predict_boxes(
        run, classifier, given, scales or None, top, device=device, precision=precision, workers=workers
    )
    files = draw_predictions(predictions, given, classifier, out, device=device) if out is not None else []
    if json_:
        write_json([_prediction_data(each) for each in predictions])
        return
    rows = [row for each in predictions for row in _prediction_rows(each)]
    write_table(f"boxes of {run}, classes of {classifier}", rows, numeric=["posterior"])
    for file in files:
        write_line(str(file))


def _error_data(name: str, error: "Error | None") -> dict[str, Any]:
    if error is None:
        return {}
    return {f"{name}_error": error.value, f"{name}_interval95": error.interval, f"{name}_wrong": error.wrong}


def _result_data(result: "BoxResult") -> dict[str, Any]:
    row: dict[str, Any] = {
        "runs": result.sources,
        "regressions": result.regressions,
        "protocol": result.protocol,
        "images": result.top1.images,
    }
    row |= _error_data("top1", result.top1) | _error_data("top5", result.top5)
    for name, error in zip(("class_top1", "class_top5"), result.classes or (), strict=False):
        row |= _error_data(name, error)
    row["baselines"] = [
        {"name": each.name} | _error_data("top1", each.top1) | _error_data("top5", each.top5)
        for each in result.baselines
    ]
    return row


def _result_rows(result: "BoxResult") -> list[dict[str, Cell]]:
    own = f"{', '.join(dict.fromkeys(result.regressions))}: {' + '.join(result.sources)}"
    others = [(f"baseline: {each.name}", each.top1, each.top5) for each in result.baselines]
    rows: list[dict[str, Cell]] = []
    for box, top1, top5 in ((own, result.top1, result.top5), *others):
        row: dict[str, Cell] = {"box": box, "protocol": result.protocol, "top-1 error": _error_lines(top1)}
        rows.append(row | ({"top-5 error": _error_lines(top5)} if top5 is not None else {}))
    return rows


def _error_lines(error: "Error") -> tuple[str, ...]:
    low, high = error.interval
    return f"{error.value:.2%}", f"[{low:.2%}, {high:.2%}]"


def _prediction_data(prediction: "BoxPrediction") -> dict[str, Any]:
    return {
        "image": prediction.image,
        "boxes": [
            {"class": each.name, "posterior": each.posterior, "box": each.box, "windows": each.windows}
            for each in prediction.located
        ],
    }


def _prediction_rows(prediction: "BoxPrediction") -> list[dict[str, Cell]]:
    return [
        {
            "image": prediction.image if rank == 0 else "",
            "class": each.name,
            "posterior": f"{each.posterior:.1%}",
            "box (x0, y0, x1, y1)": _edges(each),
        }
        for rank, each in enumerate(prediction.located)
    ]


def _edges(located: "Located") -> str:
    return ", ".join(f"{edge:.0f}" for edge in located.box)
