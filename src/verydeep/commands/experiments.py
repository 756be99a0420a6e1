"""`verydeep reproduce` and `verydeep report` (Sect. 4)."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from verydeep.commands.arguments import Deterministic, Device, Json, Precision, Skip, Whole, Workers
from verydeep.errors import UserError
from verydeep.terminal import first_rank, write_json, write_line


def reproduce(
    *tables: Literal["table3", "table4", "table5", "table6", "table7", "table8", "table9", "table10"],
    data: str,
    preset: Literal["ilsvrc", "imagenette", "imagenette-gpu", "digits"],
    boxes: str | None = None,
    photographs: Path | None = None,
    classifiers: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())] = (),
    seeds: Whole = 1,
    out: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    micro_batch: Whole = 0,
    workers: Workers = None,
    deterministic: Deterministic = False,
    skip_unreadable: Skip = False,
    json_: Json = False,
) -> None:
    """Run the paper's experiments (Sect. 4, Appendix A): train and test its nets, and compare the errors.

    Finished steps are not repeated: after Ctrl-C or a power failure the same command resumes. If the recipe, data
    or start of a net has changed, the net is trained again and the earlier run is kept under another name.

    For example:

    - `verydeep reproduce --data digits --preset digits` takes minutes.
    - `verydeep reproduce table3 table4 --data ILSVRC --preset ilsvrc --dry-run` says what it would take.
    - `torchrun --nproc-per-node 8 -m verydeep reproduce --data ILSVRC --preset ilsvrc --out runs/paper`
    - `verydeep reproduce table8 table9 table10 --data digits --preset digits` finds digits on backgrounds.
    - `verydeep reproduce table8 --data ILSVRC --boxes Annotations --photographs Data --preset ilsvrc`

    Args:
        tables: tables to make [default: those of Sect. 4, 3 to 7].
        data: a folder of photographs as for `verydeep train`, or "digits".
        preset: the sizes of nets, scales and schedules: ilsvrc is the paper; imagenette is for small photographs
            on two CPU cores; imagenette-gpu is the same at crop 224 on a GPU; digits is for trying things out.
        boxes: for Tables 8 to 10: photographs with boxes, as for `verydeep localise train`; with the data digits,
            they are made.
        photographs: the folder of these photographs, as for `verydeep localise train`.
        classifiers: for Tables 8 to 10: classification nets to start from instead of training them, for S = 256
            and for S = 384.
        seeds: number of repetitions, each with different random numbers.
        out: the folder to create or resume: runs, results.json, report.html [default: runs/PRESET].
        dry_run: print the plan and its cost, and run nothing.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
    """
    from verydeep.commands import experiment_output
    from verydeep.experiments.dry_run import dry_run as plan
    from verydeep.experiments.reproduction import reproduce as run_plan

    folder = out or Path("runs") / preset
    options: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "workers": workers,
        "micro_batch": micro_batch,
        "deterministic": deterministic,
        "skip_unreadable": skip_unreadable,
    }
    if localisation := [table for table in tables if table in ("table8", "table9", "table10")]:
        if dry_run:
            raise UserError(f"--dry-run plans Tables 3 to 7; leave out {localisation[0]}")
        source = boxes or ("digits" if data == "digits" else None)
        if source is None:
            raise UserError(f"{localisation[0]} needs photographs with boxes; pass them with --boxes")
        images = None if data == "digits" else data
        boxed: dict[str, Any] = options | {"photographs": photographs, "classifiers": classifiers}
        _reproduce_boxes(source, preset, localisation, seeds, folder, images, boxed, json_)
        tables = tuple(table for table in tables if table not in localisation)
        if not tables:
            return
    if dry_run:
        planned = plan(data, preset, tables, seeds, folder, **options)
        if first_rank() and not json_:
            experiment_output.write_plan(planned)
        elif first_rank():
            write_json(asdict(planned))
        return
    found = run_plan(data, preset, tables, seeds, folder, **options)
    if first_rank() and not json_:
        experiment_output.write_experiment(found, folder)
    elif first_rank():
        write_json(asdict(found.results))


def _reproduce_boxes(
    source: str,
    preset: str,
    tables: Sequence[str],
    seeds: int,
    folder: Path,
    data: str | None,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Run the experiments of Appendix A, and print them."""
    from verydeep.commands import localisation_output
    from verydeep.experiments.localisation.reproduction import reproduce_boxes

    found = reproduce_boxes(source, preset, tables, seeds, folder, data=data, **options)
    if first_rank() and not as_json:
        localisation_output.write_box_experiment(found, folder)
    elif first_rank():
        write_json(asdict(found.results))


def report(
    *sources: Annotated[Path, Parameter(name="RUN...")],
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], show_default=False)] = None,
) -> None:
    """Make a report of training runs or of an experiment, from the files in their folders.

    An earlier report is overwritten. If any other file is in the way, nothing is written. The page that
    `verydeep reproduce` makes also shows photographs; they are not stored with the results, so this page has none.

    For example:

    - `verydeep report runs/a runs/d -o curves.html`
    - `verydeep report results/imagenette` makes report.md and report.html in that folder.

    Args:
        sources: run directories, or the folder of an experiment, which contains results.json.
        out: the page to write: .html for one self-contained file, or .md with its charts as .svg files next to it.
    """
    from verydeep.experiments.localisation.report import make_box_report
    from verydeep.experiments.report import report as make_pages
    from verydeep.experiments.results import RESULTS

    boxes = make_box_report(sources[0]) if len(sources) == 1 and out is None else ()
    others = () if boxes and not (sources[0] / RESULTS).exists() else make_pages(sources, out)
    for path in (*others, *boxes):
        write_line(str(path))
