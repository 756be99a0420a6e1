"""`verydeep test` (Sect. 3.2)."""

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from verydeep.commands.arguments import Device, Json, Method, Scales, Skip, TestingPrecision, Workers
from verydeep.errors import UserError
from verydeep.terminal import Cell, first_rank, write_json, write_table

if TYPE_CHECKING:
    from verydeep.evaluation.metrics import Error
    from verydeep.evaluation.testing import Result


def test(
    runs: Annotated[list[str], Parameter(name="RUN... DATA")],
    /,
    *,
    scales: Scales = (),
    method: Method = "dense",
    device: Device = "auto",
    precision: TestingPrecision = "fp32",
    workers: Workers = None,
    skip_unreadable: Skip = False,
    json_: Json = False,
) -> None:
    """Test one net or several on the validation set (Sect. 3.2), and several together (Sect. 4.4).

    Each pass is computed once and stored in the run directory. Averages over scales, methods and nets use the
    stored passes.

    For example:

    - `verydeep test runs/d photographs --scales 256 384 512`
    - `verydeep test runs/d runs/e photographs --scales 256 384 512 --method both`

    Args:
        runs: run directories, weight files or published weights, followed by the data set to test them on.
        scales: test scales Q in pixels [default: the training scale S, or the middle of its range;
            for dense score maps, the multiple of 32 nearest to it].
        method: dense; multi-crop (5 x 5 crops); both (the mean of these two); centre-crop; or windows (crops that
            the cells of a dense score map see, each by itself).
    """
    from verydeep.procedures import test as test_nets

    if len(runs) < 2:
        raise UserError(f"test needs at least one run and a data set; given: {' '.join(runs) or 'nothing'}")
    *sources, data = runs
    results = test_nets(
        sources,
        data,
        scales or None,
        method,
        device=device,
        precision=precision,
        workers=workers,
        skip_unreadable=skip_unreadable,
    )
    if first_rank() and json_:
        write_json([_result_data(result) for result in results])
    elif first_rank():
        write_table(f"{results[0].top1.images} images of {data}", [_result_row(result) for result in results])


def _result_data(result: "Result") -> dict[str, Any]:
    row: dict[str, Any] = {
        "nets": result.nets,
        "runs": result.sources,
        "unfinished": [mark or None for mark in result.unfinished],
        "protocols": result.protocols,
        "images": result.top1.images,
    }
    for name, error in (("top1", result.top1), ("top5", result.top5)):
        row |= {f"{name}_error": error.value, f"{name}_interval95": error.interval, f"{name}_wrong": error.wrong}
    return row


def _result_row(result: "Result") -> dict[str, Cell]:
    return {
        "net": " + ".join(result.nets),
        "run": " + ".join(result.marked(result.sources)),
        "protocol": " + ".join(dict.fromkeys(result.protocols)),
        "top-1 error": _error_lines(result.top1),
        "top-5 error": _error_lines(result.top5),
    }


def _error_lines(error: "Error") -> tuple[str, ...]:
    low, high = error.interval
    return f"{error.value:.2%}", f"[{low:.2%}, {high:.2%}]"
