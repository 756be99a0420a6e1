"""int8 ONNX files, by ONNX Runtime's static quantisation.

Activations become uint8, with ranges from photographs, and weights int8 with a scale per channel. The weights use
7 of their 8 bits: processors without VNNI add two products in 16 bits, which would overflow silently. conv1_1 and
fc8 stay in float32: they are small, and rounding changes the result most there.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation.batches import TestImages, read_batches
from verydeep.evaluation.images import Given, opened
from verydeep.evaluation.metrics import wilson
from verydeep.evaluation.protocols import Pass, test_scale
from verydeep.exports import onnx, runtime
from verydeep.exports.checking import Outputs
from verydeep.exports.missing import needed
from verydeep.network import ConvNet
from verydeep.progress import Meter
from verydeep.workers import workers_for

T = TypeVar("T")

KEPT = ("conv1_1", "fc8")
"""Layers that stay in float32."""

QUANTISED = ["Conv", "Relu", "MaxPool"]
"""Operators that are quantised; the mean over the map and the soft-max are not."""

EVERY = 5
"""Every fifth photograph is left out of the calibration, for the comparison."""

MOST_CALIBRATED, MOST_COMPARED = 256, 512
"""Photographs that are used at most, evenly spaced among those given."""

LEAST = 2 * EVERY
"""Photographs that are needed at least."""

BATCH = 8
"""Photographs that are read and computed at a time."""

SMALLEST = torch.finfo(torch.float64).tiny

ROUNDS = 11
"""How often the time of an image is measured, for each file."""


@dataclass(frozen=True)
class Quantised:
    """An int8 file compared with the float32 file of the same net.

    The photographs of the comparison were not used for the calibration.
    """

    protocol: str
    """Which part of a photograph the nets see, at which scale."""
    calibrated: int
    """Photographs that set the ranges of the activations."""
    compared: int
    """Photographs that were compared."""
    agreement: float | None
    """Share of the compared photographs with the same most likely class, in [0, 1]; None for a feature net."""
    interval: tuple[float, float] | None
    """Wilson's 95% interval of `agreement`."""
    difference: float
    """Mean absolute difference of a posterior; for a feature net, of its map, relative to the map's mean."""
    seconds: float
    """Time of the int8 file for one image: the median of some rounds that alternate with the other's."""
    float32_seconds: float
    """The same of the float32 file."""
    threads: int
    """Threads that computed an image."""
    bytes: int
    """Size of the int8 file."""
    float32_bytes: int
    """Size of the float32 file."""


@dataclass(frozen=True)
class Crops:
    """Centre crops of photographs, which are read when they are needed."""

    images: TestImages
    rows: Sequence[int]

    def batches(self, doing: str) -> Iterator[Float[Tensor, "N 3 crop crop"]]:
        """Yield the crops, some at a time; those that cannot be read are named and left out.

        Args:
            doing: what is done with them, to show progress.
        """
        batches = [list(self.rows[start : start + BATCH]) for start in range(0, len(self.rows), BATCH)]
        cpu = torch.device("cpu")
        workers = workers_for(len(self.rows), None, cpu)
        with (
            read_batches(self.images, batches, workers, Ranks(device=cpu)) as reading,
            Meter(doing, len(self.rows), unit="images") as meter,
        ):
            for batch in reading:
                for error in batch.unreadable.values():
                    meter.say(f"left out: {error}")
                if batch.rows:
                    yield batch.together(cpu).float().contiguous()
                meter.advance(len(batch.rows) + len(batch.unreadable))


def write(net: ConvNet, photographs: Sequence[Given], path: Path) -> Quantised:
    """Write a net as an int8 ONNX file, to a path that nothing else reads yet, and compare it with float32.

    Photographs are rescaled as in testing. Those that cannot be read are named and left out.

    Args:
        net: the net, in evaluation mode.
        photographs: for the calibration, except every fifth, which is for the comparison.
        path: the file.

    Raises:
        UserError: if onnx or onnxruntime is not installed, fewer than 10 photographs can be read, or
            `exports.onnx.model` refuses the net.
    """
    needed("onnxruntime")
    scale = test_scale(net.card, "centre-crop")
    given = opened(spaced(photographs, MOST_COMPARED * EVERY), skip_unreadable=True)
    if len(given) < LEAST:
        raise UserError(
            f"a calibration needs at least {LEAST} photographs that can be read, better some hundred; there are "
            f"{len(given)}"
        )
    dataset = given.dataset(net.card.names)
    images = TestImages(dataset, Pass("centre-crop", scale, flip=False), net.crop, net.card.rescaling)
    rows = list(range(len(given)))
    compared = rows[EVERY - 1 :: EVERY]
    calibrating = spaced([row for row in rows if row % EVERY != EVERY - 1], MOST_CALIBRATED)
    with TemporaryDirectory() as folder:
        exact = Path(folder) / "float32.onnx"
        onnx.write(net, exact)
        _quantise(exact, path, Crops(images, calibrating))
        return _compared(
            exact,
            path,
            Crops(images, compared),
            f"centre crop of {net.crop} x {net.crop}, Q = {scale}",
            len(calibrating),
        )


def spaced(items: Sequence[T], most: int) -> Sequence[T]:
    """Return at most this many items, evenly spaced."""
    if len(items) <= most:
        return items
    return [items[number * len(items) // most] for number in range(most)]


class _Reader:
    """The crops, as ONNX Runtime's calibration takes them: one batch after the other, then None."""

    def __init__(self, crops: Crops) -> None:
        self._batches = crops.batches("calibrating")

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {onnx.IMAGES: batch.numpy()}


def _quantise(exact: Path, path: Path, crops: Crops) -> None:
    """Write the int8 file of a float32 file."""
    quantization = needed("onnxruntime.quantization")
    prepared = exact.with_name("prepared.onnx")
    # The symbolic inference of shapes is for graphs with loops and reshapes; ONNX's own knows all of ours.
    needed("onnxruntime.quantization.shape_inference").quant_pre_process(exact, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        path,
        _Reader(crops),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=QUANTISED,
        nodes_to_exclude=list(KEPT),
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,  # takes the same memory for any number of images
    )
    prepared.unlink()
    models = needed("onnx")
    made, original = models.load(path), models.load(exact)
    models.helper.set_model_props(made, {each.key: each.value for each in original.metadata_props})
    made.producer_name, made.doc_string = original.producer_name, original.doc_string
    models.save_model(made, path)


def _compared(exact: Path, path: Path, crops: Crops, protocol: str, calibrated: int) -> Quantised:
    """Compare an int8 file with the float32 file of the same net."""
    threads = torch.get_num_threads()
    of_int8, of_float32 = (runtime.runner(each, threads) for each in (path, exact))
    images = same = 0
    difference = total = 0.0
    first: Tensor | None = None
    for batch in crops.batches("comparing"):
        first = batch[:1] if first is None else first
        (found, *_), (wanted, *_) = (run(batch).values() for run in (of_int8, of_float32))
        images += len(batch)
        same += int((found.flatten(1).argmax(1) == wanted.flatten(1).argmax(1)).sum())
        difference += float((found - wanted).abs().double().mean() * len(batch))
        total += float(wanted.abs().double().mean() * len(batch))
        classes = wanted.ndim == 2
    if first is None:
        raise UserError("no photograph of the comparison can be read; pass other photographs")
    seconds, float32_seconds = median_seconds((of_int8, of_float32), first)
    return Quantised(
        protocol=protocol,
        calibrated=calibrated,
        compared=images,
        agreement=same / images if classes else None,
        interval=wilson(same / images, float(images)) if classes else None,
        difference=difference / (images if classes else max(total, SMALLEST)),
        seconds=seconds,
        float32_seconds=float32_seconds,
        threads=threads,
        bytes=path.stat().st_size,
        float32_bytes=exact.stat().st_size,
    )


def median_seconds(runs: Sequence[Outputs], images: Tensor, rounds: int = ROUNDS) -> tuple[float, ...]:
    """Return the median time of each function for these images, from rounds in which they alternate."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds + 1):
        for run, own in zip(runs, times, strict=True):
            begun = time.perf_counter()
            run(images)
            own.append(time.perf_counter() - begun)
    return tuple(median(own[1:]) for own in times)  # the first round warms up
