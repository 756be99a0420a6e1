"""`verydeep predict`: the most likely classes of photographs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from verydeep.commands.arguments import (
    Device,
    Json,
    Method,
    Photographs,
    Scales,
    TestingPrecision,
    Whole,
    Workers,
    listed_photographs,
    loaded,
    refuse_unreadable,
)
from verydeep.errors import UserError
from verydeep.published.registry import with_words
from verydeep.terminal import Cell, first_rank, write_csv, write_json, write_table

if TYPE_CHECKING:
    from verydeep.procedures import Prediction


def predict(
    run: str,
    /,
    *images: Photographs,
    scales: Scales = (),
    method: Method = "dense",
    top: Whole = 5,
    device: Device = "auto",
    precision: TestingPrecision = "fp32",
    workers: Workers = None,
    json_: Json = False,
    csv: Annotated[
        bool, Parameter(negative=(), help="print the result as CSV, one line per image and class")
    ] = False,
) -> None:
    """Show the most likely classes of photographs, with the protocols of `verydeep test`.

    Predictions are printed in the order of the arguments. Photographs that cannot be read are named on standard
    error and left out; the exit code is then 2. A file of `verydeep transfer --save` gives scores of its linear
    classifier instead of posteriors.

    For example:

    - `verydeep predict runs/d holiday.jpg`
    - `verydeep predict runs/d photographs/ 'more/**/*.jpg' --scales 256 384 --method both --csv`
    - `find . -name '*.jpg' | verydeep predict runs/d - --top 1 --json`

    Args:
        run: a run directory, a weight file, or published weights (see `verydeep weights`).
        images: JPEG, PNG or WebP: files, folders (searched recursively), patterns such as '*.jpg', or - for a list
            of paths on standard input.
        scales: test scales Q in pixels [default: as in `verydeep test`].
        method: as in `verydeep test`; posteriors are averaged over scales and methods.
        top: number of classes per photograph.
        csv: print the result as CSV, one line per image and class.
    """
    from verydeep.evaluation.protocols import protocol, test_scale
    from verydeep.procedures import predict as predict_classes
    from verydeep.training.run import unfinished

    if json_ and csv:
        raise UserError("--json and --csv exclude each other; use one")
    photographs = listed_photographs(images, "predict needs a run and at least one image; no image was given")
    net = loaded(run, device)
    predictions = predict_classes(
        net,
        photographs,
        scales or None,
        method,
        top,
        precision=precision,
        workers=workers,
        skip_unreadable=True,
    )
    mark = unfinished(Path(run))
    if first_rank() and json_:
        write_json([_prediction_data(each) | {"unfinished": mark or None} for each in predictions])
    elif first_rank() and csv:
        write_csv(row for each in predictions for row in _prediction_lines(each))
    elif first_rank() and predictions:
        rows = [row for each in predictions for row in _prediction_rows(each)]
        if net.classifier is not None:
            named = f"linear classifier of {net.classifier.description}"
        else:
            named = protocol(method, scales or (test_scale(net.card, method),), net.card.flip)
        write_table(f"{run} ({mark}), {named}" if mark else named, rows, numeric=["posterior", "score"])
    refuse_unreadable(len(photographs) - len(predictions), len(photographs))


def _values(prediction: "Prediction") -> tuple[str, list[tuple[str, float]]]:
    """Return "posterior" or "score", and that of each class."""
    kind = "posterior" if prediction.posteriors else "score"
    return kind, list(zip(prediction.classes, prediction.posteriors or prediction.scores, strict=True))


def _prediction_data(prediction: "Prediction") -> dict[str, Any]:
    kind, named = _values(prediction)
    return {"image": prediction.image, "classes": [{"class": name, kind: value} for name, value in named]}


def _prediction_lines(prediction: "Prediction") -> list[dict[str, object]]:
    kind, named = _values(prediction)
    return [
        {"image": prediction.image, "rank": rank, "class": name, kind: value}
        for rank, (name, value) in enumerate(named, start=1)
    ]


def _prediction_rows(prediction: "Prediction") -> list[dict[str, Cell]]:
    kind, named = _values(prediction)
    return [
        {
            "image": prediction.image if rank == 0 else "",
            "class": with_words(name),
            kind: f"{value:.1%}" if kind == "posterior" else f"{value:.2f}",
        }
        for rank, (name, value) in enumerate(named)
    ]
