"""The command line: it reads arguments and shows results; all work is done below.

Modules that import torch are imported inside the commands, so that `verydeep --help` answers at once.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from cyclopts import App, CycloptsError, Parameter, Token
from rich.console import Console
from rich.table import Table

from verydeep import recipe as recipes
from verydeep.configurations import CONFIGURATIONS, Architecture, output_sides
from verydeep.errors import Interrupted, UserError
from verydeep.progress import say
from verydeep.recipe import Recipe

if TYPE_CHECKING:
    from verydeep.evaluation.metrics import Error
    from verydeep.evaluation.testing import Result
    from verydeep.experiments.dry_run import DryRun
    from verydeep.procedures import Prediction

app = App(
    name="verydeep",
    help="Very Deep Convolutional Networks for Large-Scale Image Recognition: train, test and use the nets.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)


def _default(name: str) -> str:
    """How the help shows the default of a recipe's field."""
    value = Recipe.model_fields[name].default
    rules = {
        "training_scale": "crop + 32",
        "learning_rate": "by that rule",
    }
    return rules.get(name, "none" if value is None else str(value))


def _whole(kind: Any, tokens: Sequence[Token]) -> int | tuple[int, ...]:
    """Whole numbers off the command line; cyclopts itself would round 1.5."""
    values = []
    for token in tokens:
        try:
            values.append(int(token.value))
        except ValueError as error:
            raise ValueError(f"{token.value!r} is no whole number") from error
    return tuple(values) if kind == tuple[int, ...] else values[0]


def _converter(kind: object) -> dict[str, Any]:
    return {"converter": _whole} if kind in (int, tuple[int, ...]) else {}


RecipeFlags: Any = TypedDict(  # type: ignore[misc]
    "RecipeFlags",
    {
        name: Annotated[
            field.annotation,
            Parameter(
                help=f"{field.description} [default: {_default(name)}]",
                consume_multiple=True,
                negative_iterable=(),
                **_converter(field.annotation),
            ),
        ]
        for name, field in Recipe.model_fields.items()
    },
    total=False,
)
"""Every field of `Recipe` as a flag; a dict of those that were given."""

FULL = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
"""How torch says that there is not enough memory."""

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "remote process")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="print the result as JSON")]
Skip = Annotated[bool, Parameter(negative=(), help="go on without images that cannot be read; they are listed")]
Device = Annotated[str, Parameter(help="cpu, cuda, mps, or auto for the fastest that is there")]
Precision = Annotated[
    Literal["fp32", "bf16"], Parameter(help="bf16 computes with bfloat16 where torch's autocast does")
]
Whole = Annotated[int, Parameter(converter=_whole)]
Scales = Annotated[
    tuple[int, ...],
    Parameter(consume_multiple=True, negative_iterable=(), show_default=False, converter=_whole),
]
Workers = Annotated[
    int | None,
    Parameter(
        help="processes that read images ahead, for each rank [default: by the number of cores]",
        converter=_whole,
    ),
]


@app.command
def configurations(net: str | None = None, /, *, json_: Json = False) -> None:
    """Show Tables 1 and 2: the nets, their parameters, multiply-adds and receptive fields.

    For example:

    - `verydeep configurations` shows all of them at 1000 classes and a crop of 224.
    - `verydeep configurations D` shows D layer by layer.

    Args:
        net: show this net layer by layer.
    """
    if net is not None:
        rows = _layer_rows(net)
    else:
        rows = [
            {
                "net": name,
                "weight layers": each.weight_layers,
                "layers": each.column,
                "parameters": each.parameters(),
                "multiply-adds": each.multiply_adds(),
                "receptive field of pool5": each.receptive_fields()["pool5"].size,
            }
            for name, each in CONFIGURATIONS.items()
        ]
    _show(rows, json_, title="1000 classes, crop 224")


def _layer_rows(name: str) -> list[dict[str, Any]]:
    net = Architecture(name)
    layers, fields = net.layers, net.receptive_fields()
    return [
        {
            "layer": layer.name,
            "kernel": layer.kernel,
            "channels": layer.out_channels,
            "side": side,
            "receptive field": fields[layer.name].size,
            "stride": fields[layer.name].stride,
            "parameters": layer.parameters,
            "multiply-adds": layer.multiply_adds(side),
        }
        for layer, side in zip(layers, output_sides(layers, recipes.PAPER_CROP), strict=True)
        if layer.kind in ("conv", "lrn", "pool")
    ]


@app.command
def engine(
    net: str = "D",
    /,
    *,
    images: Whole = 1,
    crop: Whole = recipes.PAPER_CROP,
    width: float = 1.0,
    json_: Json = False,
) -> None:
    """Show how the convolution engine computes each layer of a net on this machine's CPU, and why.

    The environment variable VERYDEEP_ENGINE turns it `off`, or names the library: `avx512`, `avx2` or `plain`.

    For example:

    - `verydeep engine` shows net D for one image.
    - `verydeep engine E --images 8` shows net E for a mini-batch of 8.
    - `verydeep engine A --crop 64 --width 0.25` shows a miniature.

    Args:
        net: a configuration of Table 1.
        images: how many are computed at once; in testing the engine takes fewer through the first layers.
        crop: side of its images in pixels.
        width: multiplier of the channels.
    """
    import torch

    from verydeep.engine.explanation import explain
    from verydeep.engine.native import library

    used = library()
    rows = [
        {
            "layer": each.layer,
            "channels": f"{each.inputs} to {each.outputs}",
            "output": f"{each.side} x {each.side}",
            "path": each.path,
            "tiles of a block": each.tiles or "",
            "blocks": ("of all threads" if each.shared else "a thread each") if each.tiles else "",
            "why": each.reason,
        }
        for each in explain(Architecture(net, crop=crop, width=width), images)
    ]
    name = used.name if used else "none"
    title = f"library {name}, {torch.get_num_threads()} threads, {images} image(s) of {crop} x {crop}, float32"
    _show(rows, json_, title)


@app.command
def train(
    data: str,
    /,
    *,
    out: Path | None = None,
    recipe: Path | None = None,
    flags: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    micro_batch: Whole = 0,
    workers: Workers = None,
    compile_: Annotated[bool, Parameter(name="--compile", negative=())] = False,
    recompute: Annotated[bool, Parameter(negative=())] = False,
    skip_unreadable: Skip = False,
) -> None:
    """Train a net (Sect. 3.1), or go on with a training that was interrupted.

    The result is a run directory. Ctrl-C and SIGTERM save and leave; the same command goes on from there.

    For example:

    - `verydeep train digits --net A --crop 32 --training-scale 32 40 --width 0.25 --fully-connected 256
      --initialisation he --out runs/a`
    - `verydeep train photographs --net D --start-from runs/a --out runs/d`
    - `torchrun --nproc-per-node 2 -m verydeep train photographs --net A`

    Args:
        data: a folder with train/CLASS/* and val/CLASS/*, a folder in the layout of ILSVRC-2012, or "digits".
        out: the run directory to make or to go on with [default: runs/NET].
        recipe: a TOML file of recipe fields, such as another run's recipe.toml; flags override it.
        micro_batch: images that pass through the net at once on each rank; 0 for its whole share of the batch.
        compile_: compile the net with torch.compile.
        recompute: keep less for the backward pass and compute it again (activation checkpointing), to save memory.
    """
    from verydeep.procedures import train as train_net

    chosen = recipes.changed(recipes.read(recipe) if recipe else Recipe(), dict(flags or {}))
    run = train_net(
        data,
        chosen,
        out or Path("runs") / chosen.net.lower(),
        device=device,
        precision=precision,
        workers=workers,
        micro_batch=micro_batch,
        compile=compile_,
        recompute=recompute,
        skip_unreadable=skip_unreadable,
    )
    if _first():
        print(f"trained: {run.path / 'weights.safetensors'}; test it with: verydeep test {run.path} {data}")


@app.command
def test(
    runs: Annotated[list[str], Parameter(name="RUN... DATA")],
    /,
    *,
    scales: Scales = (),
    method: Literal["dense", "multi-crop", "both", "centre-crop", "windows"] = "dense",
    device: Device = "auto",
    precision: Precision = "fp32",
    workers: Workers = None,
    skip_unreadable: Skip = False,
    json_: Json = False,
) -> None:
    """Test one net or several on the validation set (Sect. 3.2), and several together (Sect. 4.4).

    Every pass is stored once, in the run directory; averages over scales, methods and nets need no other pass.

    For example:

    - `verydeep test runs/d photographs --scales 256 384 512`
    - `verydeep test runs/d runs/e photographs --scales 256 384 512 --method both`

    Args:
        runs: run directories or weight files, and last the data set that they are tested on.
        scales: test scales Q in pixels [default: the training scale S, or the middle of its range].
        method: dense; multi-crop, 5 x 5 crops; both, the mean of these two; centre-crop; or windows: what the
            cells of a dense score map see, each as a crop of its own.
    """
    from verydeep.procedures import test as test_nets

    if len(runs) < 2:
        raise UserError(f"test takes at least one run and a data set; given {' '.join(runs) or 'nothing'}")
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
    if _first():
        title = f"{results[0].top1.images} images of {data}"
        _show([_result_row(result, json_) for result in results], json_, title)


@app.command
def predict(run: str, /, *images: Path, device: Device = "auto", json_: Json = False) -> None:
    """Name the five most likely classes of photographs, tested densely at the net's own scale.

    For example:

    - `verydeep predict runs/d holiday.jpg`

    Args:
        run: a run directory or a weight file.
        images: photographs: JPEG, PNG or WebP.
    """
    from verydeep import weights
    from verydeep.distributed import device_of
    from verydeep.evaluation.dense import left_out
    from verydeep.evaluation.posteriors import test_scale
    from verydeep.photographs import ImageError
    from verydeep.procedures import predict as predict_classes
    from verydeep.progress import track

    if not images:
        raise UserError("predict takes a run and at least one image; no image was given")
    net = weights.load(run).to(device_of(device))
    predictions, failed = [], False
    if line := left_out(test_scale(net.card)):
        say(line)
    for path in track(images, "predicting", total=len(images), enabled=_first()):
        try:
            predictions += predict_classes(net, [path])
        except ImageError as error:
            say(f"verydeep: {error}")
            failed = True
    if _first():
        _show_predictions(predictions, json_, title=f"dense, Q = {test_scale(net.card)}")
    if failed:
        sys.exit(2)


@app.command
def inspect(data: str, /, *, json_: Json = False) -> None:
    """Read a data set through: its classes, its images' sizes, and what is wrong with them.

    Lists what cannot be read, what is suspicious (such as a photograph cut in the middle), which photographs are
    both in train and in val, and what is left out. Leaves with exit code 1 if there are unreadable images.

    For example:

    - `verydeep inspect photographs`

    Args:
        data: what `verydeep train` takes.
    """
    from verydeep.procedures import inspect as inspect_data

    found = inspect_data(data)
    rows: list[dict[str, Any]] = []
    for each in found:
        counts = each.counts.values()
        row: dict[str, Any] = {
            "split": each.split,
            "images": each.images,
            "classes": len(each.counts),
            "images a class": f"{min(counts)} to {max(counts)}",
            "mean colour": [None if math.isnan(value) else round(value, 1) for value in each.mean],
            "unreadable": len(each.unreadable),
            "other files": len(each.others),
        }
        if each.smallest_sides:
            row["smallest side"] = "{} to {}, median {}".format(*(each.smallest_sides[i] for i in (0, 2, 1)))
        if json_:
            row["class counts"] = each.counts
            row["unreadable images"] = list(each.unreadable)
            row["suspicious images"] = list(each.suspicious)
            row["images also in train"] = list(each.also_in_train)
            row["other paths"] = list(each.others)
        rows.append(row)
    if not json_:
        train, val = (each.counts for each in found)
        _show(
            [{"class": name, "train": train[name], "val": val[name]} for name in train], json_, "images per class"
        )
    _show(rows, json_, title=data)
    unreadable = [line for each in found for line in each.unreadable]
    lists = {
        "Unreadable": unreadable,
        "Suspicious": [line for each in found for line in each.suspicious],
        "In train and in val": [line for each in found for line in each.also_in_train],
        "Other files, left out": [path for each in found for path in each.others],
    }
    if not json_:
        for title, lines in lists.items():
            for line in [f"{title}:", *lines] if lines else []:
                print(line)
    if unreadable:
        sys.exit(1)


@app.command
def reproduce(
    *tables: Literal["table3", "table4", "table5", "table6", "table7"],
    data: str,
    preset: Literal["ilsvrc", "imagenette", "imagenette-gpu", "digits"],
    seeds: Whole = 1,
    out: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    micro_batch: Whole = 0,
    workers: Workers = None,
    skip_unreadable: Skip = False,
    json_: Json = False,
) -> None:
    """Run the paper's experiments (Sect. 4): train and test the nets of its tables, and compare with its errors.

    What is done already is not done again: after Ctrl-C or a power failure the same command goes on. A net whose
    recipe, data or start has changed is trained again; the run before is kept under another name.

    For example:

    - `verydeep reproduce --data digits --preset digits` takes minutes.
    - `verydeep reproduce table3 table4 --data ILSVRC --preset ilsvrc --dry-run` says what it would take.
    - `torchrun --nproc-per-node 8 -m verydeep reproduce --data ILSVRC --preset ilsvrc --out runs/paper`

    Args:
        tables: those to make [default: all].
        data: a folder of photographs as `verydeep train` takes it, or "digits".
        preset: the sizes of nets, scales and schedules: ilsvrc is the paper; imagenette is for small photographs
            and two CPU cores; imagenette-gpu for the same at crop 224; digits for trying things out.
        seeds: how many times all of it is done, each time with other random numbers.
        out: the folder to make or to go on with: runs, results.json, report.html [default: runs/PRESET].
        dry_run: show the plan, with what it costs, and do nothing.
        micro_batch: images that pass through the net at once on each rank; 0 for its whole share of the batch.
    """
    from verydeep.experiments.dry_run import dry_run as plan
    from verydeep.experiments.reproduction import reproduce as run_plan

    folder = out or Path("runs") / preset
    options: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "workers": workers,
        "micro_batch": micro_batch,
        "skip_unreadable": skip_unreadable,
    }
    if dry_run:
        planned = plan(data, preset, tables, seeds, folder, **options)
        if _first() and not json_:
            _show_plan(planned)
        elif _first():
            print(json.dumps(asdict(planned), indent=1))
        return
    results = run_plan(data, preset, tables, seeds, folder, **options)
    if _first() and not json_:
        _show_experiment(folder)
    elif _first():
        print(json.dumps(asdict(results), indent=1))


@app.command
def report(
    *sources: Annotated[Path, Parameter(name="RUN...")],
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], show_default=False)] = None,
) -> None:
    """Make a page of some runs or of an experiment, from what they wrote down.

    A page is overwritten where a report was there before; any other file is left alone, and the report refused.

    For example:

    - `verydeep report runs/a runs/d -o curves.html`
    - `verydeep report results/imagenette` makes report.md and report.html in that folder.

    Args:
        sources: run directories, or the folder of an experiment, which has a results.json.
        out: the page to make: .html, one file that holds all; or .md, with its charts as .svg beside it.
    """
    from verydeep.experiments.report import report as make_pages

    for path in make_pages(sources, out):
        print(path)


def _show_experiment(folder: Path) -> None:
    """Print the tables and the findings of an experiment, and where its report is."""
    from verydeep.experiments.findings import findings
    from verydeep.experiments.pages.document import Cell, Grid
    from verydeep.experiments.report.measurements import read_measurements
    from verydeep.experiments.report.tables import tables_section

    found = read_measurements(folder)
    for grid in (block for block in tables_section(found).blocks if isinstance(block, Grid)):
        table = Table(title=grid.caption, title_justify="left")
        names = [column.name for column in grid.columns]
        left_out = ("Q in the paper", "seeds", "paper, test images")
        shown = [  # of top-5 errors no interval: a terminal is not that wide
            at
            for at, name in enumerate(names)
            if name not in left_out and not (name == "95% interval" and "top-5" in names[:at])
        ]
        for at in shown:
            justify: Literal["right", "left"] = "right" if grid.columns[at].numeric else "left"
            table.add_column(grid.columns[at].name, justify=justify, overflow="fold")
        for row in grid.rows:
            table.add_row(*(cell.text if isinstance(cell, Cell) else cell for cell in (row[at] for at in shown)))
        _print(table)
    rows = [{"the paper": each.claim.says, "here": each.says} for each in findings(found.outcomes)]
    _show(rows, as_json=False, title="The paper's findings")
    print(f"report: {folder / 'report.html'}")


def _show_plan(plan: "DryRun") -> None:
    """Print the steps of an experiment with what they cost."""
    from verydeep.experiments.report.facts import duration

    rows = [
        {
            "step": f"{step.name}, seed {step.seed}",
            "from": step.start or "random weights",
            "S": " to ".join(map(str, step.training_scale)),
            "tests": "; ".join(f"{method} {', '.join(map(str, q))}" for method, q in step.tests.items()),
            "images": step.training.images + step.testing.images,
            "multiply-adds, 10^12": round((step.training.multiply_adds + step.testing.multiply_adds) / 1e12, 1),
            "time here": duration((step.training + step.testing).seconds),
            "state": "; ".join((step.state, *step.reasons)),
        }
        for step in plan.steps
    ]
    _show(rows, as_json=False, title=f"{plan.preset} on {plan.data}, rates measured on {plan.device}")
    total, left = plan.total, plan.left
    print(
        f"in all {total.images:,} images, {total.multiply_adds:.3g} multiply-adds, {duration(total.seconds)}; "
        f"left to do: {left.images:,} images, {left.multiply_adds:.3g} multiply-adds, {duration(left.seconds)}"
    )
    if plan.gpus:
        gpus = [
            {
                "GPU": each.gpu.name,
                "precision": each.gpu.precision,
                "images/s of D": each.gpu.images_per_second,
                "days": f"{each.hours / 24:.1f}",
                "US dollars": "no price known" if each.dollars is None else f"{each.dollars:,.0f}",
                "source": "; ".join(filter(None, (each.gpu.source, each.gpu.price_source))),
            }
            for each in plan.gpus
        ]
        _show(gpus, as_json=False, title="What is left, on GPUs, by published measurements of net D's training")


def _first() -> bool:
    """Whether this process prints for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _show_predictions(predictions: Sequence["Prediction"], as_json: bool, title: str) -> None:
    if as_json:
        rows = [
            {
                "image": each.image,
                "classes": [
                    {"class": name, "posterior": share}
                    for name, share in zip(each.classes, each.posteriors, strict=True)
                ],
            }
            for each in predictions
        ]
        _show(rows, as_json, title)
    elif predictions:
        rows = [
            {"image": each.image if rank == 0 else "", "class": name, "posterior": f"{share:.1%}"}
            for each in predictions
            for rank, (name, share) in enumerate(zip(each.classes, each.posteriors, strict=True))
        ]
        _show(rows, as_json, title)


def _result_row(result: "Result", as_json: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "net": " + ".join(result.nets),
        "run": " + ".join(result.sources),
        "protocol": " + ".join(dict.fromkeys(result.protocols)),
        "images": result.top1.images,
    }
    for name, error in (("top-1 error", result.top1), ("top-5 error", result.top5)):
        row[name] = _error_data(error) if as_json else str(error)
    return row


def _error_data(error: "Error") -> dict[str, Any]:
    return {"error": error.value, "interval95": error.interval, "wrong": error.wrong}


def _show(rows: list[dict[str, Any]], as_json: bool, title: str) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        numeric = all(isinstance(row.get(name), int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        cells = [row.get(name, "") for name in columns]
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells))
    _print(table)


def _print(table: Table) -> None:
    console = Console()
    # Where it is no terminal nobody would see a line break: let the table be as wide as it is.
    Console(width=console.width if console.is_terminal else 200).print(table, markup=False)


def main() -> None:
    """Run the command line; wrong use is one line and exit code 2, an interruption 128 and the signal's number."""
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except (CycloptsError, UserError) as error:
        rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
        say(f"verydeep{rank}: {' '.join(str(error).split())}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("verydeep: interrupted")
        sys.exit(130)
    except Interrupted as stopped:
        say(f"verydeep: {stopped}")
        sys.exit(128 + stopped.number)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(word in str(error) for word in FULL):
            what = (str(error).splitlines() or ["MemoryError"])[0]
            say(
                f"verydeep: not enough memory ({what}); give a smaller --micro-batch, --crop, --width or "
                "--fully-connected, or --recompute"
            )
            sys.exit(2)
        # How torch says that another rank is no more; that one has said why.
        if "RANK" not in os.environ or not any(word in str(error) for word in LOST):
            raise
        say(f"verydeep (rank {os.environ['RANK']}): another rank has stopped; see its message")
        sys.exit(2)
