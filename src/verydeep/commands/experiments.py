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
    *tables: Literal[
        "table3", "table4", "table5", "table6", "table7", "table8", "table9", "table10", "table11", "table12"
    ],
    data: str | None = None,
    preset: Literal["ilsvrc", "imagenette", "imagenette-gpu", "digits"],
    seeds: Whole = 1,
    out: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    boxes: str | None = None,
    photographs: Path | None = None,
    classifiers: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())] = (),
    nets: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())] = (),
    voc2007: str | None = None,
    voc2012: str | None = None,
    caltech101: str | None = None,
    caltech256: str | None = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    micro_batch: Whole = 0,
    workers: Workers = None,
    deterministic: Deterministic = False,
    skip_unreadable: Skip = False,
    json_: Json = False,
) -> None:
    """Run the paper's experiments (Sect. 4, Appendices A and B): train and test its nets, and compare the errors.

    Finished steps are not repeated: after Ctrl-C or a power failure the same command resumes. If the recipe, data
    or start of a net has changed, the net is trained again and the earlier run is kept under another name.

    For example:

    - `verydeep reproduce --data digits --preset digits` takes minutes.
    - `verydeep reproduce table3 table4 --data ILSVRC --preset ilsvrc --dry-run` says what it would take.
    - `verydeep reproduce table11 --preset ilsvrc --nets torchvision/vgg16 torchvision/vgg19 --caltech101 CALTECH`
      transfers published nets to another data set (Appendix B).
    - `verydeep reproduce table8 table9 table10 --data digits --preset digits` finds digits on backgrounds.
    - `verydeep reproduce table8 --data ILSVRC --boxes Annotations --photographs Data --preset ilsvrc`
    - `torchrun --nproc-per-node 8 -m verydeep reproduce --data ILSVRC --preset ilsvrc --out runs/paper`

    Args:
        tables: tables to make [default: those of Sect. 4, 3 to 7].
        data: a folder of photographs as for `verydeep train`, or "digits". Not needed for tables 11 and 12 with
            --nets.
        preset: the sizes of nets, scales and schedules: ilsvrc is the paper; imagenette is for small photographs
            on two CPU cores; imagenette-gpu is the same at crop 224 on a GPU; digits is for trying things out.
        seeds: number of repetitions, each with different random numbers.
        out: the folder to create or resume: runs, results.json, report.html [default: runs/PRESET].
        dry_run: print the plan and its cost, and run nothing.
        boxes: for tables 8 to 10: photographs with boxes, as for `verydeep localise train`; with the data digits,
            they are made.
        photographs: for tables 8 to 10: the folder of these photographs, as for `verydeep localise train`.
        classifiers: for tables 8 to 10: classification nets to start from instead of training them, for S = 256
            and for S = 384.
        nets: for tables 11 and 12: runs or weight files of nets D and E [default: the plan's D-jitter and
            E-jitter, trained on the data].
        voc2007: for table 11: the folder of PASCAL VOC 2007.
        voc2012: for tables 11 and 12: the folder of PASCAL VOC 2012.
        caltech101: for table 11: the folder of Caltech-101.
        caltech256: for table 11: the folder of Caltech-256.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
    """
    from verydeep.commands.transfer_output import transfer_tables
    from verydeep.experiments.localisation.plan import TABLES as BOXED
    from verydeep.experiments.transfer_plan import TABLES as TRANSFERRED

    folder = out or Path("runs") / preset
    options: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "workers": workers,
        "micro_batch": micro_batch,
        "deterministic": deterministic,
        "skip_unreadable": skip_unreadable,
    }
    boxed = [name for name in tables if name in BOXED]
    others = [name for name in tables if name not in TRANSFERRED and name not in BOXED]
    found: dict[str, Any] = {}
    if others or not tables:
        found |= _classification(others, data, preset, seeds, folder, options, dry_run, json_)
    if boxed:
        if dry_run:
            raise UserError(f"--dry-run does not plan Tables 8 to 10; leave out {boxed[0]}")
        images = None if data == "digits" else data
        more: dict[str, Any] = {"photographs": photographs, "classifiers": classifiers, "data": images}
        found["localisation"] = _localisation(boxes or data, preset, boxed, seeds, folder, options | more, json_)
    if transferred := [name for name in tables if name in TRANSFERRED]:
        given = {"voc2007": voc2007, "voc2012": voc2012, "caltech101": caltech101, "caltech256": caltech256}
        folders = {name: place for name, place in given.items() if place is not None}
        arguments = (folders, preset, transferred, nets, data, seeds, folder)
        found["transfer"] = transfer_tables(arguments, options, dry_run, json_)
    if json_ and first_rank():
        write_json(found)


def _classification(
    tables: Sequence[str],
    data: str | None,
    preset: str,
    seeds: int,
    folder: Path,
    options: dict[str, Any],
    dry_run: bool,
    json_: bool,
) -> dict[str, Any]:
    """Make Tables 3 to 7, print them unless they will be printed as JSON, and return that."""
    from verydeep.commands import experiment_output
    from verydeep.experiments.dry_run import dry_run as plan
    from verydeep.experiments.reproduction import reproduce as run_plan

    if data is None:
        raise UserError("reproduce needs --data, a folder of photographs or digits")
    if dry_run:
        planned = plan(data, preset, tables, seeds, folder, **options)
        if first_rank() and not json_:
            experiment_output.write_plan(planned)
        return asdict(planned)
    found = run_plan(data, preset, tables, seeds, folder, **options)
    if first_rank() and not json_:
        experiment_output.write_experiment(found, folder)
    return asdict(found.results)


def _localisation(
    source: str | None,
    preset: str,
    tables: Sequence[str],
    seeds: int,
    folder: Path,
    options: dict[str, Any],
    json_: bool,
) -> dict[str, Any]:
    """Make Tables 8 to 10, print them unless they will be printed as JSON, and return that."""
    from verydeep.commands import localisation_output
    from verydeep.experiments.localisation.reproduction import reproduce_boxes

    if source is None or (source == options["data"]):
        raise UserError(f"{tables[0]} needs photographs with boxes; pass them with --boxes")
    found = reproduce_boxes(source, preset, tables, seeds, folder, **options)
    if first_rank() and not json_:
        localisation_output.write_box_experiment(found, folder)
    return asdict(found.results)


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
    from verydeep.experiments.report import report as make_pages

    for path in make_pages(sources, out):
        write_line(str(path))
