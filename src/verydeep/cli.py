"""The command line: it reads arguments and shows results; all work is done below.

Modules that import torch are imported inside the commands, so that `verydeep --help` answers at once.
"""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypedDict

from cyclopts import App, CycloptsError, Parameter, Token

from verydeep import recipe as recipes
from verydeep.configurations import CONFIGURATIONS, Architecture, output_sides
from verydeep.errors import Interrupted, UserError, system_error
from verydeep.progress import say
from verydeep.recipe import Recipe
from verydeep.terminal import (
    Cell,
    leave_standard_streams,
    open_standard_streams,
    write,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from verydeep.engine.explanation import Explanation
    from verydeep.evaluation.metrics import Error
    from verydeep.evaluation.testing import Result
    from verydeep.experiments.dry_run import DryRun, PlannedStep
    from verydeep.experiments.pages.document import Grid
    from verydeep.procedures import Inspection, Prediction

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
    rows = _layer_rows(net) if net is not None else _net_rows()
    if json_:
        write_json(rows)
    else:
        write_table("1000 classes, crop 224", [_headed(row) for row in rows])


def _net_rows() -> list[dict[str, Any]]:
    return [
        {
            "net": name,
            "weight_layers": each.weight_layers,
            "layers": each.column,
            "parameters": each.parameters(),
            "multiply_adds": each.multiply_adds(),
            "receptive_field_of_pool5": each.receptive_fields()["pool5"].size,
        }
        for name, each in CONFIGURATIONS.items()
    ]


def _layer_rows(name: str) -> list[dict[str, Any]]:
    net = Architecture(name)
    layers, fields = net.layers, net.receptive_fields()
    return [
        {
            "layer": layer.name,
            "kernel": layer.kernel,
            "channels": layer.out_channels,
            "side": side,
            "receptive_field": fields[layer.name].size,
            "stride": fields[layer.name].stride,
            "parameters": layer.parameters,
            "multiply_adds": layer.multiply_adds(side),
        }
        for layer, side in zip(layers, output_sides(layers, recipes.PAPER_CROP), strict=True)
        if layer.kind in ("conv", "lrn", "pool")
    ]


def _headed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of JSON as one of a table."""
    return {name.replace("multiply_adds", "multiply-adds").replace("_", " "): cell for name, cell in row.items()}


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

    layers = explain(Architecture(net, crop=crop, width=width), images)
    if json_:
        write_json([asdict(each) for each in layers])
        return
    used = library()
    name = used.name if used else "none"
    title = f"library {name}, {torch.get_num_threads()} threads, {images} image(s) of {crop} x {crop}, float32"
    reasons = list(dict.fromkeys(each.reason for each in layers))
    write_table(title, [_engine_row(each, 1 + reasons.index(each.reason)) for each in layers])
    write("\n")
    for number, reason in enumerate(reasons, start=1):
        write_line(f"({number}) {reason}")


def _engine_row(layer: "Explanation", reason: int) -> dict[str, Cell]:
    return {
        "layer": layer.layer,
        "channels": f"{layer.inputs} to {layer.outputs}",
        "output": f"{layer.side} x {layer.side}",
        "path": layer.path,
        "tiles of a block": layer.tiles or "",
        "blocks": ("of all threads" if layer.shared else "a thread each") if layer.tiles else "",
        "why": f"({reason})",
    }


@app.command
def train(
    data: str,
    /,
    *,
    out: Path | None = None,
    recipe: Path | None = None,
    preset: Literal["small", "paper"] | None = None,
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
        preset: sets sizes and schedule if neither recipe nor flags do, and prints them: small fits them to the
            data set and the machine, paper is the paper's.
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
        preset=preset,
        device=device,
        precision=precision,
        workers=workers,
        micro_batch=micro_batch,
        compile=compile_,
        recompute=recompute,
        skip_unreadable=skip_unreadable,
    )
    if _first():
        write_line(f"trained: {run.path / 'weights.safetensors'}; test it with: verydeep test {run.path} {data}")


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
        scales: test scales Q in pixels [default: the training scale S, or the middle of its range;
            for dense score maps the multiple of 32 nearest to it].
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
    if _first() and json_:
        write_json([_result_data(result) for result in results])
    elif _first():
        write_table(f"{results[0].top1.images} images of {data}", [_result_row(result) for result in results])


@app.command
def predict(run: str, /, *images: Path, device: Device = "auto", json_: Json = False) -> None:
    """Name the five most likely classes of photographs, tested densely at the default Q of `verydeep test`.

    For example:

    - `verydeep predict runs/d holiday.jpg`

    Args:
        run: a run directory or a weight file.
        images: photographs: JPEG, PNG or WebP.
    """
    from verydeep.distributed import device_of
    from verydeep.evaluation.posteriors import test_scale
    from verydeep.interop.loading import load
    from verydeep.photographs.photograph import ImageError
    from verydeep.procedures import predict as predict_classes
    from verydeep.progress import track

    if not images:
        raise UserError("predict takes a run and at least one image; no image was given")
    net = load(run).to(device_of(device))
    predictions, failed = [], False
    for path in track(images, "predicting", total=len(images), enabled=_first()):
        try:
            predictions += predict_classes(net, [path])
        except ImageError as error:
            say(f"verydeep: {error}")
            failed = True
    if _first() and json_:
        write_json([_prediction_data(each) for each in predictions])
    elif _first() and predictions:
        rows = [row for each in predictions for row in _prediction_rows(each)]
        write_table(f"dense, Q = {test_scale(net.card)}", rows, numeric=["posterior"])
    if failed:
        sys.exit(2)


@app.command
def convert(
    source: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    half: Annotated[bool, Parameter(negative=())] = False,
    preprocessing: Annotated[str | None, Parameter(show_default=False)] = None,
    json_: Json = False,
) -> None:
    """Convert another system's VGG to a weight file that takes raw RGB.

    Reads state dicts of torchvision and timm, Keras' .h5 and .keras, .caffemodel, MatConvNet's .mat, and ONNX. The
    configuration, classes, width and crop follow from the weights, and the preprocessing is folded into them. A
    file of convolutions alone becomes a feature net, which `verydeep train --start-from` takes.

    For example:

    - `verydeep convert vgg16-397923af.pth -o vgg16.safetensors`
    - `verydeep convert vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 -o features.safetensors`

    Args:
        source: the other system's file.
        out: the weight file to write; replaced if it exists.
        half: store the weights as float16, in half of the space.
        preprocessing: what the net expects of its images, if not what that system's published VGGs do:
            torchvision, caffe (also Keras), caffe-rgb, half (-1..1), unit (0..1) or raw.
    """
    from verydeep.interop.loading import convert as convert_weights

    net = convert_weights(source, out, half=half, preprocessing=preprocessing)
    made, provenance = asdict(net.architecture), net.card.provenance
    if json_:
        write_json({"path": str(out), "architecture": made, "provenance": provenance})
        return
    kind = f"{net.classes} classes, crop {net.crop}" if net.classes else "a feature net"
    write_line(f"{out}: net {net.configuration.name}, {kind}, width {net.architecture.width:g}")
    write_line(f"from {provenance['source']}, {provenance['format']}, SHA-256 {provenance['sha256']}")
    for folded in provenance["folded"]:
        write_line(f"folded: {folded}")


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
    if json_:
        write_json([_inspection_data(each) for each in found])
    else:
        _show_inspections(found, data)
    if any(each.unreadable for each in found):
        sys.exit(1)


def _inspection_data(found: "Inspection") -> dict[str, Any]:
    """An inspection as JSON, which knows no NaN."""
    mean = [None if math.isnan(value) else round(value, 4) for value in found.mean]
    return asdict(found) | {"mean": mean}


def _show_inspections(found: Sequence["Inspection"], data: str) -> None:
    """Print a column for each split, and what cannot be read or is left out below."""
    facts = {each.split: _facts(each) for each in found}
    names = dict.fromkeys(name for each in facts.values() for name in each)
    rows: list[dict[str, Cell]] = [
        {"": name} | {split: each.get(name, "") for split, each in facts.items()} for name in names
    ]
    write_table(data, rows)
    train, val = (each.counts for each in found)
    write("\n")
    write_table("images per class", [{"class": name, "train": train[name], "val": val[name]} for name in train])
    lists = {
        "Unreadable": [line for each in found for line in each.unreadable],
        "Suspicious": [line for each in found for line in each.suspicious],
        "In train and in val": [line for each in found for line in each.also_in_train],
        "Other files, left out": [path for each in found for path in each.others],
    }
    for title, lines in lists.items():
        if lines:
            write(f"\n{title}:\n")
            for line in lines:
                write_line(line)


def _facts(found: "Inspection") -> dict[str, Cell]:
    counts = found.counts.values()
    mean = ", ".join("unknown" if math.isnan(value) else f"{value:.1f}" for value in found.mean)
    sides = "{}, {}, {}".format(*found.smallest_sides) if found.smallest_sides else "unknown"
    return {
        "images": f"{found.images:,}",
        "classes": f"{len(counts):,}",
        "images per class": f"{min(counts):,} to {max(counts):,}",
        "mean colour (R, G, B)": mean,
        "smallest side (least, median, largest)": sides,
        "unreadable images": f"{len(found.unreadable):,}",
        "other files": f"{len(found.others):,}",
    }


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

    A step that is done is not repeated: after Ctrl-C or a power failure the same command resumes. A net whose
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
        out: the folder to make or to resume: runs, results.json, report.html [default: runs/PRESET].
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
            write_json(asdict(planned))
        return
    results = run_plan(data, preset, tables, seeds, folder, **options)
    if _first() and not json_:
        _show_experiment(folder)
    elif _first():
        write_json(asdict(results))


@app.command
def report(
    *sources: Annotated[Path, Parameter(name="RUN...")],
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], show_default=False)] = None,
) -> None:
    """Make a page of some runs or of an experiment, from what they wrote down.

    A page replaces a report that was there before. Any other file is left alone, and the report is refused. The
    photographs in the page of `verydeep reproduce` are not part of what it wrote down, so this page lacks them.

    For example:

    - `verydeep report runs/a runs/d -o curves.html`
    - `verydeep report results/imagenette` makes report.md and report.html in that folder.

    Args:
        sources: run directories, or the folder of an experiment, which has a results.json.
        out: the page to make: .html, one file that holds all; or .md, with its charts as .svg beside it.
    """
    from verydeep.experiments.report import report as make_pages

    for path in make_pages(sources, out):
        write_line(str(path))


def _show_experiment(folder: Path) -> None:
    """Print the tables and the findings of an experiment, and where its report is."""
    from verydeep.experiments.findings import check_claims
    from verydeep.experiments.pages.document import Grid
    from verydeep.experiments.report.measurements import read_measurements
    from verydeep.experiments.report.tables import tables_section

    found = read_measurements(folder)
    for grid in (block for block in tables_section(found).blocks if isinstance(block, Grid)):
        _show_grid(grid)
        write("\n")
    checked = [f for f in check_claims(found.outcomes).findings if f.verdict != "not measured"]
    if checked:
        write_table("The paper's findings", [{"the paper": f.claim.says, "here": f.says} for f in checked])
        write("\n")
    write_line(f"report: {folder / 'report.html'}")


def _show_grid(grid: "Grid") -> None:
    """Print a table of errors without what a terminal has no room for; the report has all of it."""
    names = [column.name for column in grid.columns]
    left_out = ("Q in the paper", "seeds", "paper, test images")
    rows: list[dict[str, Cell]] = []
    for cells in grid.rows:
        texts = [cell if isinstance(cell, str) else cell.text for cell in cells]
        row: dict[str, Cell] = {}
        for at, (name, text) in enumerate(zip(names, texts, strict=True)):
            if name == "95% interval":  # below the top-1 error that it belongs to; of top-5 errors there is none
                if names[at - 1] == "top-1":
                    row["top-1"] = tuple(filter(None, (texts[at - 1], text)))
            elif name not in left_out:
                row[f"paper, {names[at - 2]}" if name == "paper" else name] = text
        rows.append(row)
    numeric = [name for name in rows[0] if name.startswith(("top-", "paper"))] if rows else []
    write_table(grid.caption, rows, numeric)


def _show_plan(plan: "DryRun") -> None:
    """Print the steps of an experiment with what they cost."""
    from verydeep.experiments.report.facts import duration

    several = len({step.seed for step in plan.steps}) > 1
    title = f"{plan.preset} on {plan.data}, rates measured on {plan.device}"
    rows = [_step_row(step, several) for step in plan.steps]
    write_table(title, rows, numeric=["mult-adds, 10^12", "time here"])
    write("\n")
    total, left = plan.total, plan.left
    write_line(
        f"in all {total.images:,} images, {total.multiply_adds:.3g} multiply-adds, {duration(total.seconds)}; "
        f"left to do: {left.images:,} images, {left.multiply_adds:.3g} multiply-adds, {duration(left.seconds)}"
    )
    if plan.gpus:
        gpus: list[dict[str, Cell]] = [
            {
                "GPU": each.gpu.name,
                "precision": each.gpu.precision,
                "images/s of D": f"{each.gpu.images_per_second:,.0f}",
                "days": f"{each.hours / 24:.1f}",
                "US dollars": "no price known" if each.dollars is None else f"{each.dollars:,.0f}",
                "source": "; ".join(filter(None, (each.gpu.source, each.gpu.price_source))),
            }
            for each in plan.gpus
        ]
        write("\n")
        title = "What is left, on GPUs, by published measurements of net D's training"
        write_table(title, gpus, numeric=["images/s of D", "days"])


def _step_row(step: "PlannedStep", seeds: bool) -> dict[str, Cell]:
    from verydeep.experiments.report.facts import duration

    return {
        "step": f"{step.name}, seed {step.seed}" if seeds else step.name,
        "from": step.start or "random weights",
        "S": " to ".join(map(str, step.training_scale)),
        "tests": "; ".join(f"{method} {', '.join(map(str, q))}" for method, q in step.tests.items()),
        "mult-adds, 10^12": f"{(step.training.multiply_adds + step.testing.multiply_adds) / 1e12:,.1f}",
        "time here": duration((step.training + step.testing).seconds),
        "state": "; ".join((step.state, *step.reasons)),
    }


def _first() -> bool:
    """Whether this process prints for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _prediction_data(prediction: "Prediction") -> dict[str, Any]:
    named = zip(prediction.classes, prediction.posteriors, strict=True)
    return {
        "image": prediction.image,
        "classes": [{"class": name, "posterior": share} for name, share in named],
    }


def _prediction_rows(prediction: "Prediction") -> list[dict[str, Cell]]:
    named = zip(prediction.classes, prediction.posteriors, strict=True)
    return [
        {"image": prediction.image if rank == 0 else "", "class": name, "posterior": f"{share:.1%}"}
        for rank, (name, share) in enumerate(named)
    ]


def _result_data(result: "Result") -> dict[str, Any]:
    row: dict[str, Any] = {
        "nets": result.nets,
        "runs": result.sources,
        "protocols": result.protocols,
        "images": result.top1.images,
    }
    for name, error in (("top1", result.top1), ("top5", result.top5)):
        row |= {f"{name}_error": error.value, f"{name}_interval95": error.interval, f"{name}_wrong": error.wrong}
    return row


def _result_row(result: "Result") -> dict[str, Cell]:
    return {
        "net": " + ".join(result.nets),
        "run": " + ".join(result.sources),
        "protocol": " + ".join(dict.fromkeys(result.protocols)),
        "top-1 error": _error_lines(result.top1),
        "top-5 error": _error_lines(result.top5),
    }


def _error_lines(error: "Error") -> tuple[str, ...]:
    low, high = error.interval
    return f"{error.value:.2%}", f"[{low:.2%}, {high:.2%}]"


def main() -> None:
    """Run the command line; wrong use is one line and exit code 2, an interruption 128 and the signal's number."""
    open_standard_streams()
    try:
        _main()
    finally:
        leave_standard_streams()


def _main() -> None:
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
        write("")  # what others have printed, such as a help text, is to arrive, too
    except CycloptsError as error:
        _refuse(" ".join(str(error).split()))
    except UserError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(str(system_error(error)))
    except KeyboardInterrupt:
        say("verydeep: interrupted")
        sys.exit(130)
    except Interrupted as stopped:
        say(f"verydeep: {stopped}")
        sys.exit(128 + stopped.number)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(word in str(error) for word in FULL):
            what = (str(error).splitlines() or ["MemoryError"])[0]
            _refuse(
                f"not enough memory ({what}); give a smaller --micro-batch, --crop, --width or --fully-connected, "
                "or --recompute"
            )
        # How torch says that another rank is no more; that one has said why.
        if "RANK" not in os.environ or not any(word in str(error) for word in LOST):
            raise
        _refuse("another rank has stopped; see its message")


def _refuse(line: str) -> NoReturn:
    """Say what is wrong, and on which rank, and leave with exit code 2."""
    rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
    say(f"verydeep{rank}: {line}")
    sys.exit(2)
