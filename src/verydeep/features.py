"""Features of many photographs: the outputs of a net's layers, as arrays or as a file."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from verydeep.computing import Computing, TestingPrecision
from verydeep.configurations import STRIDE, whole_number
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks, device_of
from verydeep.errors import UserError
from verydeep.evaluation.batches import TestImages, batches_of, read_batches
from verydeep.evaluation.images import Given, opened
from verydeep.evaluation.posteriors import in_testing
from verydeep.evaluation.protocols import Method, Pass, test_scale
from verydeep.files import written_aside
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.printable import decoded
from verydeep.procedures import Net, loaded
from verydeep.progress import Meter
from verydeep.sealed import write_arrays
from verydeep.workers import workers_for

SUFFIXES = (".safetensors", ".parquet")
"""Extensions of the files that features can be written to."""

ROW_GROUP_BYTES = 2**27
"""Approximate size of a row group of a Parquet file, which a reader holds in memory at once."""

MEMORY_SHARE = 0.5
"""Share of the machine's memory that the features may take."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of photographs."""

    images: tuple[str, ...]
    """The file of each photograph, or "image 3" for pixels in memory."""
    layers: dict[str, Float32[np.ndarray, "N *shape"]]
    """Features by layer name, in the order of the net: (N, C), or maps (N, C, h, w)."""
    protocol: str
    """How they were computed: net, test scale, whole photograph or centre crop, means or maps."""
    classes: tuple[str, ...] | None = None
    """Class names of the data set; None for photographs without classes."""
    labels: Int64[np.ndarray, " N"] | None = None
    """The class of each photograph, as an index into `classes`."""

    def __len__(self) -> int:
        return len(self.images)


def extract(
    net: Net,
    images: Sequence[Given] | Dataset,
    layers: Collection[str],
    *,
    scale: int | None = None,
    crop: bool = False,
    maps: bool = False,
    device: str = "auto",
    precision: TestingPrecision = "fp32",
    workers: int | None = None,
    skip_unreadable: bool = False,
) -> Features:
    """Compute features of photographs, rescaled to a smallest side Q.

    By default the net is applied to the whole photograph, and the output of each layer is averaged over its map,
    like class scores in dense testing. Mirror images are not used.

    Args:
        net: a `ConvNet`, a run, or the path of a run or weight file.
        images: files, Pillow images, or RGB arrays of height x width x 3, uint8; or a data set.
        layers: names of layers, such as conv3_3, relu5_1, pool4 or fc7.
        scale: Q in pixels; if None, the net's default, as in `test`.
        crop: whether to use the centre crop, a square of the net's crop size, instead of the whole photograph.
        maps: whether to return maps (N, C, h, w) instead of their means (N, C). Maps must all have the same size,
            so `maps` implies `crop`.
        device: cpu, cuda or mps; auto uses the device of a `ConvNet`, and the fastest available for a file.
        precision: fp32, or tf32 on CUDA only; bf16 and fp16 use half precision wherever torch's autocast does, but
            for fc8; fp16 may overflow.
        workers: processes that prefetch images; if None, chosen from the number of cores, and 0 for few images.
        skip_unreadable: whether to leave out images that cannot be read, and name each on standard error.

    Returns:
        One row per image, in order, float32.

    Raises:
        ImageError: a UserError that names the first image that cannot be read.
        UserError: if an argument is wrong, or the features do not fit into memory or are not finite.
    """
    inner = loaded(net, device)
    crop = crop or maps
    method: Method = "centre-crop" if crop else "dense"
    whole = 0 if crop or _has_head(inner, layers) else STRIDE
    one = Pass(
        method, test_scale(inner.card, method) if scale is None else whole_number("scale", scale), flip=False
    )
    if one.scale < (least := whole or inner.crop):
        raise UserError(f"scale is {one.scale} pixels, below {least}, the minimum for these layers")
    target = inner.mean.device if device == "auto" else device_of(device)
    shapes = _shapes(inner, layers, target)
    given = opened(images, skip_unreadable)
    _refuse_too_large(len(given), [shape if maps else shape[:1] for shape in shapes.values()])
    found = {
        name: np.zeros((len(given), *(shape if maps else shape[:1])), np.float32) for name, shape in shapes.items()
    }
    computing = Computing(precision, workers_for(len(given), workers, target))
    dataset = given.dataset(inner.card.names)
    batches = batches_of(dataset, one, inner.crop, given.sizes)
    reader = TestImages(dataset, one, inner.crop, inner.card.rescaling)
    unreadable: dict[int, ImageError] = {}
    with (
        in_testing(inner, target),
        computing.settings(target),
        read_batches(reader, batches, computing.workers, Ranks(device=target), given.sizes) as reading,
        Meter(f"features of {inner.configuration.name}, Q = {one.scale}", len(given)) as meter,
    ):
        for batch in reading:
            if batch.unreadable and not skip_unreadable:
                raise next(iter(batch.unreadable.values()))
            unreadable |= batch.unreadable
            if batch.rows:
                pixels = batch.together(target)
                with torch.no_grad(), computing.autocast(target):
                    outputs = inner.features(pixels, layers)
                for name, output in outputs.items():
                    means = output.float() if maps else output.float().mean((2, 3))
                    found[name][batch.rows] = means.cpu().numpy()
            meter.advance(len(batch.rows) + len(batch.unreadable))
    rows = given.readable(unreadable)
    if unreadable:
        found = {name: array[rows] for name, array in found.items()}
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"features of {name} are not finite; use precision fp32 or bf16 (fp16 overflows at 65504)"
            )
    seen = f"centre crop of {inner.crop} x {inner.crop}" if crop else "whole photograph"
    protocol = (
        f"net {inner.configuration.name}, Q = {one.scale}, {seen}, {'maps' if maps else 'means over the map'}"
    )
    named = tuple(given.name(row) for row in rows)
    if not isinstance(images, Dataset):
        return Features(named, found, protocol)
    return Features(named, found, protocol, images.classes, images.labels[given.numbers[rows]])


def save(features: Features, path: str | os.PathLike[str]) -> None:
    """Write features to a file, completely or not at all.

    - `.safetensors`: one tensor per layer, and the tensor `labels` if there are classes. The metadata contain
      `images` and `classes`, as JSON lists, and `protocol`.
    - `.parquet`: one row per photograph. Column `image` is its file, `class` its class if there are classes. Each
      layer is a column of fixed-size lists. Maps are flattened; the schema metadata contain their `shapes`.
      This needs pyarrow: `pip install 'verydeep[parquet]'`.

    Args:
        features: from `extract`.
        path: the file; replaced if it exists.

    Raises:
        UserError: if the extension is another one, pyarrow is missing, or the file cannot be written.
    """
    file = Path(path)
    check_file(file)
    names = [decoded(name) for name in features.images]
    if file.suffix == ".parquet":
        _save_parquet(features, names, file)
        return
    metadata = {"images": json.dumps(names), "protocol": features.protocol}
    arrays: dict[str, np.ndarray] = dict(features.layers)
    if features.labels is not None:
        metadata["classes"] = json.dumps(features.classes)
        arrays["labels"] = features.labels
    with written_aside(file) as aside:
        write_arrays(aside, arrays, metadata)


def check_file(path: Path) -> None:
    """Refuse a file that `save` cannot write, before any work is done.

    Raises:
        UserError: if the extension is another one, or pyarrow is missing.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name of a features file must end in {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        _pyarrow()


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Parquet files need pyarrow; run pip install 'verydeep[parquet]', or write a .safetensors file"
        ) from error
    return pyarrow


def _save_parquet(features: Features, names: Sequence[str], path: Path) -> None:
    arrow = _pyarrow()
    columns: dict[str, Any] = {"image": arrow.array(names, arrow.string())}
    if features.labels is not None and features.classes is not None:
        classes = arrow.array(features.classes, arrow.string())
        columns["class"] = arrow.DictionaryArray.from_arrays(arrow.array(features.labels, arrow.int32()), classes)
    each = 1
    for name, array in features.layers.items():
        length = int(np.prod(array.shape[1:]))
        columns[name] = arrow.FixedSizeListArray.from_arrays(arrow.array(array.reshape(-1)), length)
        each += 4 * length
    shapes = {name: array.shape[1:] for name, array in features.layers.items()}
    metadata = {"protocol": features.protocol, "shapes": json.dumps(shapes)}
    table = arrow.table(columns).replace_schema_metadata(metadata)
    with written_aside(path) as aside:
        arrow.parquet.write_table(table, aside, row_group_size=max(1, ROW_GROUP_BYTES // each))


def _has_head(net: ConvNet, layers: Collection[str]) -> bool:
    """Whether one of the layers is fc6 or later. `net.features` refuses unknown names."""
    names = [layer.name for layer in net.layers]
    return any(name in names[names.index("fc6") :] for name in layers) if "fc6" in names else False


def _shapes(net: ConvNet, layers: Collection[str], device: torch.device) -> Mapping[str, tuple[int, ...]]:
    """Return channels, height and width of each layer for one crop, found by computing one."""
    with in_testing(net, device), torch.no_grad():
        crop = torch.full((1, 3, net.crop, net.crop), 128, dtype=torch.uint8, device=device)
        return {name: tuple(output.shape[1:]) for name, output in net.features(crop, layers).items()}


def _refuse_too_large(count: int, shapes: Sequence[tuple[int, ...]]) -> None:
    needed = 4 * count * sum(int(np.prod(shape)) for shape in shapes)
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE * there:
        raise UserError(
            f"the features of {count} photographs take {needed / 2**30:.1f} GiB, and this machine has "
            f"{there / 2**30:.1f} GiB of memory; use fewer layers or photographs, or means instead of maps"
        )
