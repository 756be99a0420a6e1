"""`verydeep features`: the features of photographs, by layer, as a file."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from verydeep.commands.arguments import (
    Device,
    Photographs,
    TestingPrecision,
    Whole,
    Workers,
    listed_photographs,
    loaded,
    refuse_unreadable,
)
from verydeep.errors import UserError
from verydeep.terminal import first_rank, write_line


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
        run: a run directory, a weight file, or published weights (see `verydeep weights`).
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
        photographs: Any = listed_photographs(
            images, "features needs a run and at least one image; no image was given"
        )
    elif len(images) == 1:
        photographs = open_dataset(images[0], split)
    else:
        raise UserError(f"--split needs exactly one data set; given: {' '.join(images) or 'nothing'}")
    found = feature_files.extract(
        loaded(run, device),
        photographs,
        layers,
        scale=scale,
        crop=crop,
        maps=maps,
        precision=precision,
        workers=workers,
        skip_unreadable=True,
    )
    if first_rank():
        feature_files.save(found, out)
        write_line(f"{out}: {found.protocol}")
        for name, array in found.layers.items():
            write_line(f"{name}: {' x '.join(map(str, array.shape))}")
    refuse_unreadable(len(photographs) - len(found), len(photographs))
