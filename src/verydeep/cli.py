"""The command line. It parses arguments and prints results; other modules do the work.

Modules that import torch are imported inside the commands, so that `verydeep --help` is fast.
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
    write_csv,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from verydeep.datasets.paths import Paths
    from verydeep.engine.explanation import Explanation
    from verydeep.evaluation.metrics import Error
    from verydeep.evaluation.testing import Result
    from verydeep.network import ConvNet
    from verydeep.procedures import Inspection, Prediction

app = App(
    name="verydeep",
    help="Very Deep Convolutional Networks for Large-Scale Image Recognition: train, test and use the nets.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)


def _default(name: str) -> str:
    """Return the default of a recipe's field as the help shows it."""
    value = Recipe.model_fields[name].default
    rules = {
        "training_scale": "crop + 32",
        "learning_rate": "by that rule",
    }
    return rules.get(name, "none" if value is None else str(value))


def _whole(kind: Any, tokens: Sequence[Token]) -> int | tuple[int, ...]:
    """Convert arguments to whole numbers. Without it, cyclopts would round 1.5."""
    values = []
    for token in tokens:
        try:
            values.append(int(token.value))
        except ValueError as error:
            raise ValueError(f"{token.value!r} is not a whole number") from error
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
"""Every field of `Recipe` as a flag. Its values are dicts of the flags that were given."""

FULL = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
"""Parts of the messages in which torch says that memory is full."""

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "remote process")
"""Parts of the messages in which torch says that another rank has stopped."""

Json = Annotated[bool, Parameter(name="--json", negative=(), help="print the result as JSON")]
Skip = Annotated[bool, Parameter(negative=(), help="leave out images that cannot be read, and list them")]
Device = Annotated[str, Parameter(help="cpu, cuda, mps, or auto for the fastest available")]
Precision = Annotated[
    Literal["fp32", "bf16"], Parameter(help="bf16 computes in bfloat16 wherever torch's autocast does")
]
Csv = Annotated[bool, Parameter(negative=(), help="print the result as CSV, one line per image and class")]
Method = Literal["dense", "multi-crop", "both", "centre-crop", "windows"]
Photographs = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""An argument of `_listed`; "-" is allowed."""
TestingPrecision = Annotated[
    Literal["fp32", "bf16", "fp16"],
    Parameter(help="bf16 and fp16 compute in half precision wherever torch's autocast does; fp16 may overflow"),
]
Whole = Annotated[int, Parameter(converter=_whole)]
Scales = Annotated[
    tuple[int, ...],
    Parameter(consume_multiple=True, negative_iterable=(), show_default=False, converter=_whole),
]
Workers = Annotated[
    int | None,
    Parameter(
        help="processes per rank that prefetch images [default: chosen from the number of cores]",
        converter=_whole,
    ),
]


@app.command
def configurations(net: str | None = None, /, *, json_: Json = False) -> None:
    """Show Tables 1 and 2: the nets, their parameters, multiply-adds and receptive fields.

    For example:

    - `verydeep configurations` shows all nets, for 1000 classes and a crop of 224.
    - `verydeep configurations D` shows D layer by layer.

    Args:
        net: a net to show layer by layer.
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
    """Turn the names of a JSON row into column headings."""
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

    Set the environment variable VERYDEEP_ENGINE to `off` to turn the engine off, or to `avx512`, `avx2` or `plain`
    to choose its library.

    For example:

    - `verydeep engine` shows net D for one image.
    - `verydeep engine E --images 8` shows net E for a mini-batch of 8.
    - `verydeep engine A --crop 64 --width 0.25` shows a miniature.

    Args:
        net: a configuration of Table 1.
        images: images per mini-batch. In testing, the engine computes the first layers for fewer at a time.
        crop: side of the images in pixels.
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
        "blocks": ("shared" if layer.shared else "one per thread") if layer.tiles else "",
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
    """Train a net (Sect. 3.1), or resume a training that was interrupted.

    The result is a run directory. Ctrl-C and SIGTERM save everything and stop. The same command, or
    `verydeep resume RUN`, resumes the training.

    For example:

    - `verydeep train digits --net A --crop 32 --training-scale 32 40 --width 0.25 --fully-connected 256
      --initialisation he --out runs/a`
    - `verydeep train photographs --net D --start-from runs/a --out runs/d`
    - `torchrun --nproc-per-node 2 -m verydeep train photographs --net A`

    Args:
        data: a folder with train/CLASS/* and val/CLASS/*, a folder in the layout of ILSVRC-2012, or "digits".
        out: the run directory to create or resume [default: runs/NET].
        recipe: a TOML file of recipe fields, such as another run's recipe.toml; flags override it.
        preset: choose the sizes and the schedule that neither recipe nor flags give, and print them: small fits
            them to the data set and the machine, paper uses the paper's.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
        compile_: compile the net with torch.compile.
        recompute: save memory: keep less for the backward pass and compute it again (activation checkpointing).
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
def resume(
    run: str,
    /,
    *,
    epochs: Annotated[int | None, Parameter(converter=_whole)] = None,
    iterations: Annotated[int | None, Parameter(converter=_whole)] = None,
    data: str | None = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, mps or auto [default: as before]")] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, Parameter(help="fp32 or bf16 [default: as before]")
    ] = None,
    micro_batch: Annotated[int | None, Parameter(converter=_whole)] = None,
    workers: Workers = None,
    compile_: Annotated[bool | None, Parameter(name="--compile")] = None,
    recompute: bool | None = None,
    skip_unreadable: Skip = False,
) -> None:
    """Resume the training in a run directory, with its recipe and data, or continue one that a limit has ended.

    With a higher limit, the rate drops as if the run had had that limit from the start. A run that has ended
    because validation stopped improving at the last rate cannot be continued.

    For example:

    - `verydeep resume runs/a`
    - `verydeep resume runs/a --epochs 100`

    Args:
        run: a run directory.
        epochs: new limit of epochs [default: that of the run].
        iterations: new limit of iterations [default: that of the run].
        data: the data set, if it has moved [default: where it was].
        micro_batch: images per forward and backward pass on each rank [default: as before].
        compile_: compile the net with torch.compile [default: as before].
        recompute: save memory: keep less for the backward pass and compute it again [default: as before].
    """
    from verydeep.procedures import resume as resume_run

    found = resume_run(
        run,
        epochs,
        iterations,
        data=data,
        device=device,
        precision=precision,
        workers=workers,
        micro_batch=micro_batch,
        compile=compile_,
        recompute=recompute,
        skip_unreadable=skip_unreadable,
    )
    if _first():
        write_line(str(found))


@app.command
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
        runs: run directories or weight files, followed by the data set to test them on.
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
    if _first() and json_:
        write_json([_result_data(result) for result in results])
    elif _first():
        write_table(f"{results[0].top1.images} images of {data}", [_result_row(result) for result in results])


@app.command
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
    csv: Csv = False,
) -> None:
    """Show the most likely classes of photographs, with the protocols of `verydeep test`.

    Predictions are printed in the order of the arguments. Photographs that cannot be read are named on standard
    error and left out; the exit code is then 2.

    For example:

    - `verydeep predict runs/d holiday.jpg`
    - `verydeep predict runs/d photographs/ 'more/**/*.jpg' --scales 256 384 --method both --csv`
    - `find . -name '*.jpg' | verydeep predict runs/d - --top 1 --json`

    Args:
        run: a run directory or a weight file.
        images: JPEG, PNG or WebP: files, folders (searched recursively), patterns such as '*.jpg', or - for a list
            of paths on standard input.
        scales: test scales Q in pixels [default: as in `verydeep test`].
        method: as in `verydeep test`; posteriors are averaged over scales and methods.
        top: number of classes per photograph.
    """
    from verydeep.evaluation.posteriors import protocol, test_scale
    from verydeep.procedures import predict as predict_classes
    from verydeep.training.run import unfinished

    if json_ and csv:
        raise UserError("--json and --csv exclude each other; use one")
    photographs = _listed(images, "predict needs a run and at least one image; no image was given")
    net = _loaded(run, device)
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
    if _first() and json_:
        write_json([_prediction_data(each) | {"unfinished": mark or None} for each in predictions])
    elif _first() and csv:
        write_csv(row for each in predictions for row in _prediction_lines(each))
    elif _first() and predictions:
        rows = [row for each in predictions for row in _prediction_rows(each)]
        named = protocol(method, scales or (test_scale(net.card, method),), net.card.flip)
        write_table(f"{run} ({mark}), {named}" if mark else named, rows, numeric=["posterior"])
    _refuse_unreadable(len(photographs) - len(predictions), len(photographs))


@app.command
def features(
    run: str,
    /,
    *images: Photographs,
    layers: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())],
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    split: Literal["train", "val"] | None = None,
    scale: Whole | None = None,
    crop: Annotated[bool, Parameter(negative=())] = False,
    maps: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
    precision: TestingPrecision = "fp32",
    workers: Workers = None,
) -> None:
    """Write the features of photographs, by layer, to a file.

    Photographs that cannot be read are named on standard error and left out; the exit code is then 2.

    For example:

    - `verydeep features runs/d photographs/ --layers conv3_3 fc7 -o features.safetensors`
    - `verydeep features runs/d photographs --split val --layers fc7 -o features.parquet`
    - `verydeep features runs/d '*.jpg' --layers conv5_3 --maps -o maps.safetensors`

    Args:
        run: a run directory or a weight file.
        images: photographs, as for `verydeep predict`; with --split, a data set, as for `verydeep train`.
        layers: names of layers, such as conv3_3, relu5_1, pool4 or fc7.
        out: the file to write, .safetensors or .parquet: features, photograph names, and classes if known.
        split: use this split of a data set, and write its classes.
        scale: smallest side of the rescaled photographs, in pixels [default: Q as in `verydeep test`].
        crop: use the centre crop instead of the whole photograph.
        maps: write the maps of the centre crop instead of means over maps.
    """
    from verydeep import features as feature_files
    from verydeep.datasets.dataset import open_dataset

    feature_files.check_file(out)
    if split is None:
        photographs: Any = _listed(images, "features needs a run and at least one image; no image was given")
    elif len(images) == 1:
        photographs = open_dataset(images[0], split)
    else:
        raise UserError(f"--split needs exactly one data set; given: {' '.join(images) or 'nothing'}")
    found = feature_files.extract(
        _loaded(run, device),
        photographs,
        layers,
        scale=scale,
        crop=crop,
        maps=maps,
        precision=precision,
        workers=workers,
        skip_unreadable=True,
    )
    if _first():
        feature_files.save(found, out)
        write_line(f"{out}: {found.protocol}")
        for name, array in found.layers.items():
            write_line(f"{name}: {' x '.join(map(str, array.shape))}")
    _refuse_unreadable(len(photographs) - len(found), len(photographs))


@app.command(name="map")
def map_(
    run: str,
    image: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    scales: Scales = (),
    top: Whole = 3,
    device: Device = "auto",
) -> None:
    """Draw dense score maps: where in a photograph a net sees its most likely classes (Sect. 3.2).

    The colour of a cell is its posterior, computed from the scores of that cell alone. There is one row of maps
    per scale. Mirror images are not used.

    For example:

    - `verydeep map runs/d holiday.jpg -o holiday-map.png`
    - `verydeep map runs/d holiday.jpg --scales 256 384 512 --top 5 -o holiday-map.png`

    Args:
        run: a run directory or a weight file.
        image: a photograph: JPEG, PNG or WebP.
        out: the picture to write, .png.
        scales: test scales Q in pixels [default: Q as in `verydeep test`, and twice that].
        top: number of classes to show.
    """
    from verydeep.evaluation.maps import check_picture, class_maps, draw_maps

    check_picture(out, top)
    net = _loaded(run, device)
    maps = class_maps(net, image, scales or None)
    shown = draw_maps(maps, net.card.names, out, top)
    write_line(f"{out}: {', '.join(shown)}")


def _loaded(run: str, device: str) -> "ConvNet":
    from verydeep.distributed import device_of
    from verydeep.interop.loading import load

    return load(run).to(device_of(device))


def _refuse_unreadable(count: int, of: int) -> None:
    """Exit with code 2 if photographs could not be read; each has been named.

    Raises:
        UserError: if `count` is not 0.
    """
    if count:
        raise UserError(f"{count} of {of} photographs could not be read; they are named above")


def _listed(arguments: Sequence[str], missing: str) -> "Paths":
    """Return the photographs that arguments name; `missing` is the message if there are no arguments."""
    from verydeep.datasets.listing import listed

    if not arguments:
        raise UserError(missing)
    if option := next((word for word in arguments if word.startswith("-") and word != "-"), None):
        raise UserError(f"unknown option: {option}; see --help (for a file of this name, use ./{option})")
    return listed(arguments, lambda: sys.stdin.buffer.read() if sys.stdin is not None else b"")


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

    The source may be a state dict of torchvision or timm, Keras .h5 or .keras, .caffemodel, MatConvNet .mat, or
    ONNX. Configuration, classes, width and crop are inferred from the weights, and the preprocessing is folded
    into them. A file of only convolutions becomes a feature net, which `verydeep train --start-from` can use.

    For example:

    - `verydeep convert vgg16-397923af.pth -o vgg16.safetensors`
    - `verydeep convert vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 -o features.safetensors`

    Args:
        source: the other system's file.
        out: the weight file to write; replaced if it exists.
        half: store the weights as float16, at half the size.
        preprocessing: the preprocessing that the net expects: torchvision, caffe (also Keras), caffe-rgb,
            half (-1..1), unit (0..1) or raw [default: that of the system's published VGGs].
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
    """Check a data set: its classes, and the sizes and faults of its images.

    Lists images that cannot be read, suspicious ones (such as a photograph that ends in the middle), photographs
    that are in both train and val, and files that are left out. The exit code is 1 if an image cannot be read.

    For example:

    - `verydeep inspect photographs`

    Args:
        data: a data set, as for `verydeep train`.
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
    """Return an inspection as JSON, which has no NaN."""
    mean = [None if math.isnan(value) else round(value, 4) for value in found.mean]
    return asdict(found) | {"mean": mean}


def _show_inspections(found: Sequence["Inspection"], data: str) -> None:
    """Print a table with one column per split and, below it, the lists of images and files."""
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
    """Run the paper's experiments (Sect. 4): train and test the nets of its tables, and compare the errors.

    Finished steps are not repeated: after Ctrl-C or a power failure the same command resumes. If the recipe, data
    or start of a net has changed, the net is trained again and the earlier run is kept under another name.

    For example:

    - `verydeep reproduce --data digits --preset digits` takes minutes.
    - `verydeep reproduce table3 table4 --data ILSVRC --preset ilsvrc --dry-run` says what it would take.
    - `torchrun --nproc-per-node 8 -m verydeep reproduce --data ILSVRC --preset ilsvrc --out runs/paper`

    Args:
        tables: tables to make [default: all].
        data: a folder of photographs as for `verydeep train`, or "digits".
        preset: the sizes of nets, scales and schedules: ilsvrc is the paper; imagenette is for small photographs
            on two CPU cores; imagenette-gpu is the same at crop 224 on a GPU; digits is for trying things out.
        seeds: number of repetitions, each with different random numbers.
        out: the folder to create or resume: runs, results.json, report.html [default: runs/PRESET].
        dry_run: print the plan and its cost, and run nothing.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
    """
    from verydeep import experiment_output
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
            experiment_output.write_plan(planned)
        elif _first():
            write_json(asdict(planned))
        return
    found = run_plan(data, preset, tables, seeds, folder, **options)
    if _first() and not json_:
        experiment_output.write_experiment(found, folder)
    elif _first():
        write_json(asdict(found.results))


@app.command
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


def _first() -> bool:
    """Return whether this process is the one that prints, of all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _prediction_data(prediction: "Prediction") -> dict[str, Any]:
    named = zip(prediction.classes, prediction.posteriors, strict=True)
    return {
        "image": prediction.image,
        "classes": [{"class": name, "posterior": share} for name, share in named],
    }


def _prediction_lines(prediction: "Prediction") -> list[dict[str, object]]:
    named = zip(prediction.classes, prediction.posteriors, strict=True)
    return [
        {"image": prediction.image, "rank": rank, "class": name, "posterior": share}
        for rank, (name, share) in enumerate(named, start=1)
    ]


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


def main() -> None:
    """Run the command line; exit with code 2 after an error of one line, and with 128 + number after a signal."""
    open_standard_streams()
    try:
        _main()
    finally:
        leave_standard_streams()


def _main() -> None:
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
        write("")  # flush what libraries have printed, such as the help
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
                f"not enough memory ({what}); use a smaller --micro-batch, --crop, --width or --fully-connected, "
                "or --recompute"
            )
        # Another rank has stopped, and has printed why.
        if "RANK" not in os.environ or not any(word in str(error) for word in LOST):
            raise
        _refuse("another rank has stopped; see its message")


def _refuse(line: str) -> NoReturn:
    """Print what is wrong, and on which rank, and exit with code 2."""
    rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
    say(f"verydeep{rank}: {line}")
    sys.exit(2)
