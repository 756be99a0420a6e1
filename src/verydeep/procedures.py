"""Sect. 3 and 4 as functions, for the command line and the experiments: train, resume, test, predict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32
from torch import nn

from verydeep import weights
from verydeep.computing import Computing, Precision, TestingPrecision
from verydeep.configurations import whole_number
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks, device_of, ranks
from verydeep.errors import UserError
from verydeep.evaluation import testing
from verydeep.evaluation.dense import left_out
from verydeep.evaluation.images import Given, opened
from verydeep.evaluation.posteriors import average, one_pass
from verydeep.evaluation.protocols import PROTOCOLS, check_scales, passes, test_scale
from verydeep.evaluation.testing import Result
from verydeep.interop.loading import load
from verydeep.localisation.regressor import are_boxes
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.printable import printable
from verydeep.progress import say
from verydeep.recipe import Recipe
from verydeep.task import Data, Launch, Task, class_validation, place_of, surveyed, trained
from verydeep.training.objective import Objective, classification
from verydeep.training.presets import Preset
from verydeep.training.resumption import (
    recorded_data,
    recorded_execution,
    recorded_regression,
    resumed_recipe,
)
from verydeep.training.run import Run, read_run, unfinished
from verydeep.training.step import Execution
from verydeep.transfer.procedure import scores as linear_scores
from verydeep.workers import reading_workers, workers_for

Net: TypeAlias = nn.Module | Run | str | Path
"""A `ConvNet`, a run, the path of a run or weight file, or the name of published weights."""


def train(
    data: Data,
    recipe: Recipe,
    out: str | Path | Run,
    *,
    validation: Dataset | None = None,
    preset: Preset | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    micro_batch: int = 0,
    compile: bool = False,
    recompute: bool = False,
    deterministic: bool = False,
    skip_unreadable: bool = False,
    new_limits: bool = False,
) -> Run:
    """Train a net (Sect. 3.1), or resume a training that was interrupted.

    Args:
        data: a folder of photographs, "digits", or a training set; see `open_dataset`.
        recipe: what to train and how. If it starts from a net, sizes that it leaves open are those of that net.
        out: the run directory to create or resume.
        validation: the validation set; if None, that of `data`.
        preset: fills in fields that the recipe leaves open. `small` chooses sizes and a schedule for the data and
            the machine; `paper` uses the paper's.
        device: cpu, cuda, mps, or auto for the fastest available.
        precision: fp32 is IEEE float32; tf32 computes its convolutions and matrix products in TF32, on CUDA only;
            bf16 uses bfloat16 wherever torch's autocast does, but for fc8 and the loss.
        workers: processes per rank that prefetch images; if None, chosen from the number of cores.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
        compile: whether to compile the net with torch.compile.
        recompute: whether to keep less for the backward pass and compute it again (activation checkpointing).
        deterministic: whether a resumed training has the same weights to the last bit on CUDA GPUs, too, as it
            always has on CPUs. It sets environment variables, so CUDA must not be in use yet.
        skip_unreadable: whether to leave out images that cannot be read, and name each.
        new_limits: whether the limits of epochs and iterations in the recipe replace those of a run in `out`; see
            `resume`.

    Returns:
        The run: its recipe, its curves, and its net.

    Raises:
        UserError: if an argument is wrong, an image cannot be read, `out` holds another run, or the loss is stuck
            or no longer finite.
        Interrupted: after SIGTERM or Ctrl-C, once everything is saved; the same call resumes the training.
    """
    if isinstance(data, Dataset) and validation is None:
        raise UserError(f"{data.name} is only a training set; pass a validation set, too")
    execution = Execution(Computing(precision, deterministic=deterministic), micro_batch, compile, recompute)
    task = Task(
        data, data if validation is None else validation, place_of(data), _classification, class_validation
    )
    how = Launch(device, preset, workers, skip_unreadable, new_limits)
    return trained(task, recipe, out, execution, how)


def _classification(dataset: Dataset, _: Recipe) -> Objective:
    return classification(dataset)


def resume(
    run: str | Path | Run,
    epochs: int | None = None,
    iterations: int | None = None,
    *,
    data: Data | None = None,
    validation: Dataset | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    workers: int | None = None,
    micro_batch: int | None = None,
    compile: bool | None = None,
    recompute: bool | None = None,
    deterministic: bool | None = None,
    skip_unreadable: bool = False,
) -> Run:
    """Resume the training in a run directory, with the recipe and data that it began with.

    A run that a limit has ended continues if the limit is raised, as if it had had the new limit from the start:
    epochs without a lower validation error keep counting towards the next drop of the rate, and `drop_after`
    applies to later epochs. There is one exception: an epoch that a limit of iterations has cut short stays short.
    A run that has ended because validation stopped improving at the last rate cannot be continued.

    Args:
        run: a run directory.
        epochs: a new limit of epochs, which is written into the run's recipe.toml; if None, that of the run.
        iterations: a new limit of iterations, likewise.
        data: the data, as for `train`; if None, those of the run, which must not have moved.
        validation: the validation set; if None, that of `data`.
        device: as for `train`. For this argument and those that follow, None means as when the run was last
            started.
        precision: fp32, tf32 or bf16.
        workers: processes per rank that prefetch images; if None, chosen from the number of cores.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
        compile: whether to compile the net with torch.compile.
        recompute: whether to use activation checkpointing.
        deterministic: whether CUDA GPUs give the same bits every time.
        skip_unreadable: whether to leave out images that cannot be read, and name each.

    Returns:
        The run.

    Raises:
        UserError: if this is not a run directory, its data cannot be found, a limit is not above what the run has
            done, or the run cannot be continued; also as in `train`.
        Interrupted: after SIGTERM or Ctrl-C, once everything is saved.
    """
    found = read_run(run)
    if regression := recorded_regression(found.path):
        raise UserError(
            f"{found.path} is the run of a box regressor ({regression}); resume it with the same command: "
            "verydeep localise train"
        )
    recipe = resumed_recipe(found, epochs, iterations)
    before = recorded_execution(found.path)
    if data is None and (data := recorded_data(found.path)) is None:
        raise UserError(f"cannot find the data set of {found.path}; pass it with --data")
    return train(
        data,
        recipe,
        found.path,
        validation=validation,
        device=before.device if device is None else device,
        precision=before.precision if precision is None else precision,
        workers=workers,
        micro_batch=before.micro_batch if micro_batch is None else micro_batch,
        compile=before.compile if compile is None else compile,
        recompute=before.recompute if recompute is None else recompute,
        deterministic=before.deterministic if deterministic is None else deterministic,
        skip_unreadable=skip_unreadable,
        new_limits=True,
    )


def test(
    nets: Net | Sequence[Net],
    data: Data,
    scales: Sequence[int] | None = None,
    method: str = "dense",
    *,
    device: str = "auto",
    precision: TestingPrecision = "fp32",
    workers: int | None = None,
    skip_unreadable: bool = False,
) -> list[Result]:
    """Test one net or several on the validation set (Sect. 3.2), and several together (Sect. 4.4).

    Each pass of a run or weight file is computed once and stored. Averages over scales, methods and nets use the
    stored passes.

    Args:
        nets: a `ConvNet`, a run, or the path of a run or weight file; or several of these.
        data: as for `train`.
        scales: test scales Q in pixels; if None, the default of each net (`evaluation.protocols.test_scale`): its
            training scale S, or the middle of its range; for dense score maps, the nearest multiple of 32.
        method: dense; multi-crop (5 x 5 crops); both (the mean of these two); centre-crop; or windows (crops that
            the cells of a dense score map see, each by itself).
        device: cpu, cuda, mps, or auto for the fastest available.
        precision: fp32, or tf32 on CUDA only; bf16 and fp16 use half precision wherever torch's autocast does, but
            for fc8 and what follows it; fp16 may overflow.
        workers: processes per rank that prefetch images; if None, chosen from the number of cores.
        skip_unreadable: whether to leave out images that cannot be read, and name each.

    Returns:
        One result per net, in order, and if there are several nets, one for all of them together.

    Raises:
        UserError: if an argument is wrong, an image cannot be read, a net is given twice, or a net's classes are
            not those of the data set.
    """
    several = list(nets) if isinstance(nets, Sequence) and not isinstance(nets, str) else [nets]
    if not several:
        raise UserError("there is no net to test; pass at least one")
    if scales is not None:
        passes(method, scales)
    candidates = [_marked(testing.tested(net)) for net in several]
    for candidate in candidates:
        if are_boxes(candidate.card.names):
            raise UserError(f"{candidate.source} predicts boxes, not classes; test it with verydeep localise test")
    largest = max(scales or (test_scale(net.card, method) for net in candidates))
    with ranks(device) as here:
        computing = Computing(precision, reading_workers(workers, here.device))
        computing.check(here.device)
        dataset, found = surveyed(data, "val", skip_unreadable, here, largest)
        setup = testing.Setup(dataset, found.sizes, here, computing, say)
        return list(testing.test(setup, candidates, () if scales is None else scales, method))


def _marked(net: testing.Tested) -> testing.Tested:
    """Note how far the training of a net's run has come, if it has not ended."""
    return replace(net, unfinished=unfinished(net.run)) if net.run else net


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of a photograph."""

    image: str
    """Its file, or "image 3" for pixels in memory."""
    classes: tuple[str, ...]
    """The classes, most likely first."""
    posteriors: tuple[float, ...]
    """The posterior of each of these classes, in [0, 1]; empty if a linear classifier predicted them."""
    scores: tuple[float, ...] = ()
    """The decision value of each of these classes, if a linear classifier predicted them (Appendix B)."""

    def __str__(self) -> str:
        values = [f"{share:.1%}" for share in self.posteriors] or [f"{score:.2f}" for score in self.scores]
        shares = (f"{name} {value}" for name, value in zip(self.classes, values, strict=True))
        return printable(f"{self.image}: {', '.join(shares)}")


def predict(
    net: Net,
    images: Sequence[Given],
    scales: Sequence[int] | None = None,
    method: str = "dense",
    top: int = 5,
    *,
    device: str = "auto",
    precision: TestingPrecision = "fp32",
    workers: int | None = None,
    skip_unreadable: bool = False,
) -> list[Prediction]:
    """Return the most likely classes of photographs, with the protocols of `test` (Sect. 3.2).

    Photographs of the same rescaled size share a mini-batch. If the net has a linear classifier (Appendix B), the
    classes are those of the classifier, with scores instead of posteriors.

    Args:
        net: a `ConvNet`, a run, or the path of a run or weight file.
        images: files, Pillow images, or RGB arrays of height x width x 3, uint8.
        scales: test scales Q in pixels, over which posteriors are averaged; if None, the net's default, as in
            `test`.
        method: as in `test`.
        top: number of classes to return per image.
        device: cpu, cuda or mps; auto uses the device of a `ConvNet`, and the fastest available for a file.
        precision: fp32, or tf32 on CUDA only; bf16 and fp16 use half precision wherever torch's autocast does, but
            for fc8 and what follows it; fp16 may overflow.
        workers: processes that prefetch images; if None, chosen from the number of cores, and 0 for few images.
        skip_unreadable: whether to leave out images that cannot be read, and name each on standard error.

    Returns:
        One prediction per image, in order.

    Raises:
        ImageError: a UserError that names the first image that cannot be read.
        UserError: if an argument is wrong, a posterior is not finite, or `scales` or `method` is given for a net
            with a linear classifier, which has its own.
    """
    if whole_number("top", top) < 1:
        raise UserError(f"top is {top}; use at least 1")
    inner = loaded(net, device)
    card = inner.card
    if are_boxes(card.names):
        raise UserError("the net predicts boxes, not classes; use it with verydeep localise predict")
    if inner.classifier is not None:
        if scales is not None or method != "dense":
            raise UserError(
                f"the classifier was trained on {inner.classifier.description}; leave out scales and method"
            )
        return _classified(inner, images, top, device, precision, workers, skip_unreadable)
    scales = (test_scale(card, method),) if scales is None else scales
    planned = passes(method, scales, card.flip)
    check_scales(scales, card.architecture.crop)
    given = opened(images, skip_unreadable)
    here = Ranks(device=inner.mean.device if device == "auto" else device_of(device))
    computing = Computing(precision, workers_for(len(given), workers, here.device))
    for line in filter(None, map(left_out, scales if "dense" in PROTOCOLS[method] else ())):
        say(line)
    unreadable: dict[int, ImageError] = {}
    collected = unreadable if skip_unreadable else None
    dataset = given.dataset(card.names)
    matrix = average(
        one_pass(inner, dataset, each, here, computing, given.sizes, unreadable=collected) for each in planned
    )
    rows = given.readable(unreadable)
    if not np.isfinite(matrix[rows]).all():
        raise UserError("some posteriors are not finite: the net's training diverged, or its activations overflow")
    return [_prediction(given.name(row), matrix[row], card.names, top) for row in rows]


def _classified(
    net: ConvNet,
    images: Sequence[Given],
    top: int,
    device: str,
    precision: TestingPrecision,
    workers: int | None,
    skip_unreadable: bool,
) -> list[Prediction]:
    """Predict with the linear classifier of a net."""
    assert net.classifier is not None
    given = opened(images, skip_unreadable)
    unreadable: dict[int, ImageError] = {}
    target = net.mean.device if device == "auto" else device_of(device)
    computing = Computing(precision, workers_for(len(given), workers, target))
    scores = linear_scores(net, given, target, computing, unreadable if skip_unreadable else None)
    names = net.classifier.classes
    found = []
    for row in given.readable(unreadable):
        best = np.argsort(-scores[row], kind="stable")[:top]
        values = tuple(float(scores[row, k]) for k in best)
        found.append(Prediction(given.name(row), tuple(names[k] for k in best), (), values))
    return found


def loaded(net: Net, device: str = "auto") -> ConvNet:
    """Return a net, loaded from a run or file unless it is in memory.

    Args:
        net: a `ConvNet`, a run, or the path of a run or weight file.
        device: cpu, cuda, mps, or auto for the fastest available; a `ConvNet` stays on its device.
    """
    if isinstance(net, nn.Module):
        return weights.convolutional_net(net)
    return load(net).to(device_of(device))


def _prediction(image: str, posteriors: Float32[np.ndarray, " K"], names: Sequence[str], top: int) -> Prediction:
    best = np.argsort(-posteriors, kind="stable")[:top]
    return Prediction(image, tuple(names[k] for k in best), tuple(float(posteriors[k]) for k in best))
