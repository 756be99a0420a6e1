"""Appendix A as functions, for the command line and the experiments: train box regressors, test them, predict."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from verydeep import recipe as recipes
from verydeep.computing import Computing, Precision, TestingPrecision
from verydeep.configurations import whole_number
from verydeep.datasets.dataset import Dataset, compare_classes
from verydeep.distributed import Ranks, device_of, ranks
from verydeep.errors import UserError
from verydeep.evaluation.images import Given, opened, photograph_of
from verydeep.evaluation.maps import class_maps
from verydeep.evaluation.metrics import Error
from verydeep.evaluation.posteriors import average, one_pass
from verydeep.evaluation.protocols import check_scales, passes, test_scale
from verydeep.interop.loading import read_card
from verydeep.localisation.annotations import Annotated
from verydeep.localisation.data import Splits, digest_of, of_photographs, open_boxes
from verydeep.localisation.drawing import draw_boxes
from verydeep.localisation.errors import (
    TOP,
    Hits,
    baseline_boxes,
    class_errors,
    hits_of_boxes,
    hits_of_classes,
    with_boxes,
)
from verydeep.localisation.objective import BoxTargets, EuclideanLoss, box_regression
from verydeep.localisation.prediction import Located
from verydeep.localisation.regressor import are_boxes, outputs_for, outputs_named
from verydeep.localisation.testing import Regressor, box_error, centre_crop_boxes, locate
from verydeep.network import ConvNet
from verydeep.procedures import Net, loaded
from verydeep.progress import say
from verydeep.recipe import FINE_TUNING_RATE, Recipe
from verydeep.task import Launch, Task, ValidationSet, colours_of, conditions_of, description, surveyed, trained
from verydeep.training.augmentation import Draw
from verydeep.training.objective import Objective
from verydeep.training.open_fields import filled
from verydeep.training.presets import SIZES
from verydeep.training.run import RECIPE, Run, begun, changes
from verydeep.training.step import Execution
from verydeep.training.validation import Validated, Validation
from verydeep.workers import reading_workers, workers_for

Source: TypeAlias = str | Path | Splits
"""An argument of `open_boxes`, or what it returned."""


def train_boxes(
    data: Source,
    recipe: Recipe,
    out: str | Path | Run,
    *,
    regression: str = "PCR",
    photographs: str | Path | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    micro_batch: int = 0,
    deterministic: bool = False,
    skip_unreadable: bool = False,
) -> Run:
    """Train a box regressor (Appendix A), or resume a training that was interrupted.

    It is trained like a classifier by `verydeep.train`, with the same promises, for another output and loss. Its
    fc8 is always trained from scratch.

    Args:
        data: photographs with boxes; see `open_boxes`.
        recipe: what to train and how. Usually it starts from a classification net that was trained at the same S,
            or from published convolutions; net, sizes and S that it leaves open are those of that net. The default
            learning rate is 1e-3. `learns` may name the fully connected layers, fc6, fc7 and fc8; all are trained
            if it is empty.
        out: the run directory to create or resume. With higher limits in the recipe, a run that has ended is
            continued.
        regression: SCR for one box shared by all classes, PCR for one box per class.
        photographs: the folder that the files of a CSV or XML source are in; see `open_boxes`.
        device: as for `verydeep.train`, like all that follow.
        precision: fp32, tf32 or bf16.
        workers: processes per rank that prefetch images; if None, chosen from the number of cores.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
        deterministic: whether CUDA GPUs give the same bits every time.
        skip_unreadable: whether to leave out images that cannot be read, and name each.

    Returns:
        The run: its validation error is the share of wrong boxes by protocol 1.

    Raises:
        UserError: as for `open_boxes` and `verydeep.train`, or if `regression` is unknown.
        Interrupted: after SIGTERM or Ctrl-C, once everything is saved; the same call resumes the training.
    """
    if not isinstance(recipe, Recipe):
        raise UserError(f"the recipe is of type {type(recipe).__name__}; pass a verydeep.Recipe")
    outputs_for((), regression)
    splits = _opened(data, photographs)

    execution = Execution(Computing(precision, deterministic=deterministic), micro_batch)
    launch = Launch(device, None, workers, skip_unreadable, new_limits=True)
    task = _task(splits, regression)
    return trained(task, box_recipe(recipe, Path(os.fspath(out))), out, execution, launch)


def _task(splits: Splits, regression: str) -> Task:
    """Return the training of a box regressor, for the steps that it shares with classification."""

    def objective(dataset: Dataset, chosen: Recipe) -> Objective:
        named = outputs_for(dataset.classes, regression)
        return box_regression(of_photographs(splits.train, dataset), named, chosen.crop)

    def measured(images: ValidationSet) -> Validation:
        if images.ranks.first:
            say_without(splits.train)
        return box_validation(splits.val, images)

    identity = {"regression": regression, "boxes": digest_of(splits.train)}
    return Task(splits.train.dataset, splits.val.dataset, splits.place, objective, measured, identity)


def box_changes(splits: Splits, recipe: Recipe, run: Path, regression: str, here: Ranks) -> list[str]:
    """Return what has changed since the run of a box regressor began; see `training.run.changes`.

    Args:
        splits: photographs with boxes.
        recipe: as passed to `train_boxes`.
        run: the run directory, whether it exists or not.
        regression: SCR or PCR.
        here: the ranks.
    """
    task = _task(splits, regression)
    training_set, found = surveyed(task.data, "train", False, here)
    whole = filled(run, box_recipe(recipe, run), None, conditions_of(training_set, found, here))
    described = description(task.place, training_set, splits.val.dataset, colours_of(found)) | dict(task.identity)
    return changes(run, whole, described)


def _opened(data: Source, photographs: str | Path | None) -> Splits:
    return data if isinstance(data, Splits) else open_boxes(data, photographs)


def say_without(data: Annotated) -> None:
    """Say how many photographs are left out since they have no box."""
    if data.without:
        say(f"photographs without a box, left out: {len(data.without)}, such as {data.without[0]}")


def box_recipe(recipe: Recipe, out: Path) -> Recipe:
    """Return a recipe with the fields that it leaves open as Appendix A has them.

    The net and S are those of the net that it starts from, or of the run that has begun in `out`. The rate is
    1e-3.
    """
    fields: dict[str, object] = {"learning_rate": FINE_TUNING_RATE}
    if begun(out) and (out / RECIPE).exists():
        there = recipes.read(out / RECIPE)
        fields |= {name: getattr(there, name) for name in ("net", "training_scale", *SIZES)}
    elif recipe.start_from is not None:
        card = read_card(recipe.start_from)
        fields["net"] = card.architecture.configuration
        if card.training_scale is not None and recipe.crop in (card.architecture.crop, Recipe().crop):
            fields["training_scale"] = card.training_scale
            fields["crop"] = card.architecture.crop
    left_open = {name: value for name, value in fields.items() if name not in recipe.model_fields_set}
    return recipes.changed(recipe, left_open) if left_open else recipe


CENTRE = (0.5, 0.5)
"""Where the centre crop is among the crops of training (`Draw.place`)."""


def box_validation(data: Annotated, images: ValidationSet) -> Validation:
    """Return the validation of a box regressor: protocol 1, with the Euclidean loss of the same crops."""
    scale = images.centre_crop.scale
    there = of_photographs(data, images.dataset)

    def measure(net: ConvNet) -> Validated:
        found = centre_crop_boxes(net, there, scale, images.ranks, images.computing)
        targets = BoxTargets(there.boxes, images.sizes.astype(np.int64), net.crop)
        central = [Draw(scale, CENTRE, False, np.zeros(3, np.float32), 0)] * len(there)
        wanted = torch.from_numpy(targets(there.dataset, np.arange(len(there)), central))
        loss, _ = EuclideanLoss(per_class=False)(torch.from_numpy(found.outputs.astype(np.float32)), wanted)
        return Validated(box_error(found.boxes, there).value, loss.item() / len(there))

    return Validation(centre_protocol(scale), len(there), measure)


def centre_protocol(scale: int) -> str:
    """Return the name of protocol 1 at a test scale."""
    return f"centre crop, Q = {scale}, true class"


def dense_protocol(scales: Sequence[int]) -> str:
    """Return the name of protocol 2 at some test scales."""
    return f"dense, Q = {', '.join(map(str, scales))}, predicted classes"


@dataclass(frozen=True)
class Baseline:
    """The errors of boxes that need no net, with the same classes."""

    name: str
    top1: Error
    top5: Error | None


@dataclass(frozen=True)
class BoxResult:
    """The localisation errors of a regressor, or of several together, beside those of two baselines."""

    sources: tuple[str, ...]
    """The run or weight file of each regressor."""
    regressions: tuple[str, ...]
    """SCR or PCR, for each regressor."""
    protocol: str
    top1: Error
    """Share of photographs whose most likely class or its box is wrong; in protocol 1, whose box is wrong."""
    top5: Error | None
    """Share of photographs with none of the five classes and boxes right; None in protocol 1."""
    classes: tuple[Error, Error] | None
    """Top-1 and top-5 error of the classes alone; None in protocol 1."""
    baselines: tuple[Baseline, ...]
    hits: Hits
    """Of each photograph."""


@dataclass(frozen=True)
class Tested:
    """A box regressor, loaded."""

    source: str
    net: ConvNet

    @property
    def regression(self) -> str:
        """SCR or PCR."""
        return outputs_named(self.net.card.names).regression


def test_boxes(
    regressors: Net | Sequence[Net],
    data: Source,
    scales: Sequence[int] | None = None,
    classifiers: Net | Sequence[Net] = (),
    *,
    photographs: str | Path | None = None,
    device: str = "auto",
    precision: TestingPrecision = "fp32",
    workers: int | None = None,
    skip_unreadable: bool = False,
) -> list[BoxResult]:
    """Test box regressors on the validation photographs of a data set, by either protocol of Appendix A.

    Without a classifier it is protocol 1: the centre crop, and the box of the true class. With one it is protocol
    2: the whole photograph at every scale, and the classes that the classifier predicts.

    Args:
        regressors: one or several: nets, runs or weight files.
        data: photographs with boxes; see `open_boxes`.
        scales: test scales Q in pixels; if None, the default of each regressor: its S. Protocol 1 has one scale.
        classifiers: one for all regressors, or one for each; they rate the windows, and the mean of their
            posteriors chooses the classes. None for protocol 1.
        photographs: the folder that the files are in; see `open_boxes`.
        device: as for `verydeep.test`, like all that follow.
        precision: fp32, tf32, bf16 or fp16.
        workers: processes that prefetch images; if None, chosen from the number of cores.
        skip_unreadable: whether to leave out images that cannot be read, and name each.

    Returns:
        One result per regressor, in order, and by protocol 2, if there are several, one for all of them together.

    Raises:
        UserError: if an argument is wrong, a net is not of the kind that it is passed as, classes differ, or a
            photograph cannot be read.
    """
    nets = _several(regressors, device)
    if not nets:
        raise UserError("there is no box regressor to test; pass at least one")
    for each in nets:
        _ = each.regression  # refuses classifiers
    rating = _rating(nets, _several(classifiers, device))
    if not rating and scales is not None and len(scales) != 1:
        raise UserError(
            f"scales are {list(scales)}, but the centre crop is tested at one scale; pass one, or a classifier "
            "for dense testing at several"
        )
    splits = _opened(data, photographs)
    used = [_scales_of(each.net, scales, bool(rating)) for each in nets]
    with ranks(device) as here:
        computing = Computing(precision, reading_workers(workers, here.device))
        computing.check(here.device)
        dataset, _ = surveyed(splits.val.dataset, "val", skip_unreadable, here, max(max(each) for each in used))
        if here.first:
            say_without(splits.train)
        val = of_photographs(splits.val, dataset)
        boxes = baseline_boxes(splits.train, val)
        if not rating:
            pairs = zip(nets, used, strict=True)
            return [centre_result(each, val, q[0], boxes, here, computing) for each, q in pairs]
        paired = [Regressor(each.net, by, q) for each, by, q in zip(nets, rating, used, strict=True)]
        groups = [[number] for number in range(len(nets))] + ([list(range(len(nets)))] if len(nets) > 1 else [])
        return [
            dense_result([nets[k] for k in group], [paired[k] for k in group], val, boxes, here, computing)
            for group in groups
        ]


def _several(nets: Net | Sequence[Net], device: str) -> list[Tested]:
    listed = list(nets) if isinstance(nets, Sequence) and not isinstance(nets, str) else [nets]
    return [Tested(_source(net), loaded(net, device)) for net in listed]


def _source(net: Net) -> str:
    return type(net).__name__ if isinstance(net, nn.Module) else os.fspath(net)


def _rating(nets: Sequence[Tested], classifiers: Sequence[Tested]) -> list[ConvNet]:
    """Return the classifier of each regressor; none if none is given.

    Raises:
        UserError: if there is neither one nor one for each, one is not a classifier, or their classes differ.
    """
    if not classifiers:
        return []
    if len(classifiers) not in (1, len(nets)):
        raise UserError(
            f"there are {len(classifiers)} classifiers for {len(nets)} box regressors; pass one, or one for each"
        )
    first = classifiers[0]
    for each in classifiers:
        check_classifier(each.net, each.source)
        compare_classes(each.net.card.names, first.net.card.names, each.source, first.source)
    return [each.net for each in classifiers] if len(classifiers) > 1 else [first.net] * len(nets)


def check_classifier(net: ConvNet, source: str) -> None:
    """Refuse a net without class scores.

    Raises:
        UserError: if it is a feature net or a box regressor.
    """
    if not net.classes or are_boxes(net.card.names):
        raise UserError(f"{source} gives no class scores; pass a classifier, as verydeep train makes it")


def _scales_of(net: ConvNet, scales: Sequence[int] | None, dense: bool) -> tuple[int, ...]:
    found = tuple(scales) if scales is not None else (test_scale(net.card, "dense" if dense else "centre-crop"),)
    passes("dense", found)
    check_scales(found, net.crop)
    return found


def centre_result(
    tested: Tested,
    val: Annotated,
    scale: int,
    baselines: dict[str, np.ndarray],
    here: Ranks,
    computing: Computing,
) -> BoxResult:
    """Return the result of a regressor by protocol 1.

    Args:
        tested: the regressor.
        val: photographs with boxes.
        scale: test scale Q in pixels.
        baselines: the boxes of the baselines for each photograph, by name.
        here: the ranks.
        computing: precision, workers and progress.
    """
    found = hits_of_boxes(centre_crop_boxes(tested.net, val, scale, here, computing).boxes, val)
    others = {name: hits_of_boxes(boxes, val) for name, boxes in baselines.items()}
    return _result((tested,), centre_protocol(scale), found, None, others)


def dense_result(
    tested: Sequence[Tested],
    regressors: Sequence[Regressor],
    val: Annotated,
    baselines: dict[str, np.ndarray],
    here: Ranks,
    computing: Computing,
) -> BoxResult:
    """Return the result of one or several regressors together by protocol 2.

    Args:
        tested: the regressors.
        regressors: the same, with their classifiers and scales.
        val: photographs with boxes.
        baselines: the boxes of the baselines for each photograph, by name.
        here: the ranks.
        computing: precision, workers and progress.
    """
    names = regressors[0].classifier.card.names
    if missing := [name for name in val.dataset.classes if name not in names]:
        raise UserError(f"the classifier knows no class {missing[0]!r} of {val.dataset.name}; use one that does")
    posteriors = whole_posteriors(regressors, val.dataset, here, computing)
    predicted = locate(regressors, val.dataset, posteriors, computing, TOP)
    others = {name: hits_of_classes(with_boxes(predicted, boxes), val) for name, boxes in baselines.items()}
    protocols = dict.fromkeys(dense_protocol(each.scales) for each in regressors)
    found = hits_of_classes(predicted, val)
    return _result(tested, " + ".join(protocols), found, class_errors(predicted, val), others)


def _result(
    tested: Sequence[Tested],
    protocol: str,
    found: Hits,
    classes: tuple[Error, Error] | None,
    others: dict[str, Hits],
) -> BoxResult:
    return BoxResult(
        tuple(each.source for each in tested),
        tuple(each.regression for each in tested),
        protocol,
        *found.errors,
        classes,
        tuple(Baseline(name, *each.errors) for name, each in others.items()),
        found,
    )


def whole_posteriors(
    regressors: Sequence[Regressor], dataset: Dataset, here: Ranks, computing: Computing
) -> Float32[np.ndarray, "N K"]:
    """Return the posteriors of whole photographs: the mean over the regressors' classifiers and scales, dense."""
    planned = dict.fromkeys((each.classifier, q) for each in regressors for q in each.scales)
    return average(
        one_pass(net, dataset, one, here, computing)
        for net, scale in planned
        for one in passes("dense", [scale], net.card.flip)
    )


@dataclass(frozen=True)
class BoxPrediction:
    """The most likely classes of a photograph, each with its box."""

    image: str
    """Its file, or "image 3" for pixels in memory."""
    located: tuple[Located, ...]
    """The most likely class first; boxes in pixels of the photograph."""


def predict_boxes(
    regressors: Net | Sequence[Net],
    classifiers: Net | Sequence[Net],
    images: Sequence[Given],
    scales: Sequence[int] | None = None,
    top: int = TOP,
    *,
    device: str = "auto",
    precision: TestingPrecision = "fp32",
    workers: int | None = None,
) -> list[BoxPrediction]:
    """Return the most likely classes of photographs with their boxes: protocol 2 of Appendix A.

    Args:
        regressors: one or several: nets, runs or weight files.
        classifiers: one for all regressors, or one for each.
        images: files, Pillow images, or RGB arrays of height x width x 3, uint8.
        scales: test scales Q in pixels; if None, the default of each regressor.
        top: number of classes per photograph.
        device: as for `verydeep.predict`, like all that follow.
        precision: fp32, tf32, bf16 or fp16.
        workers: processes that prefetch images; if None, chosen from the number of cores, and 0 for few images.

    Returns:
        One prediction per image, in order.

    Raises:
        ImageError: a UserError that names the first image that cannot be read.
        UserError: as for `test_boxes`.
    """
    if whole_number("top", top) < 1:
        raise UserError(f"top is {top}; use at least 1")
    nets = _several(regressors, device)
    for each in nets:
        _ = each.regression
    rating = _rating(nets, _several(classifiers, device))
    if not nets or not rating:
        raise UserError("predicting needs a box regressor and a classifier; pass at least one of each")
    paired = [
        Regressor(each.net, by, _scales_of(each.net, scales, True)) for each, by in zip(nets, rating, strict=True)
    ]
    given = opened(images, skip_unreadable=False)
    here = Ranks(device=nets[0].net.mean.device if device == "auto" else device_of(device))
    computing = Computing(precision, workers_for(len(given), workers, here.device))
    dataset = given.dataset(rating[0].card.names)
    posteriors = whole_posteriors(paired, dataset, here, computing)
    found = locate(paired, dataset, posteriors, computing, top)
    return [BoxPrediction(given.name(row), tuple(each)) for row, each in enumerate(found)]


def draw_predictions(
    predictions: Sequence[BoxPrediction],
    images: Sequence[Given],
    classifier: Net,
    out: str | Path,
    scale: int | None = None,
    *,
    device: str = "auto",
) -> list[Path]:
    """Draw predictions over their photographs: the boxes, and the classifier's map of the most likely class.

    Args:
        predictions: from `predict_boxes`.
        images: the same photographs, in the same order.
        classifier: draws the map.
        out: a .png file for one photograph, or a folder, in which each picture gets the name of its photograph.
        scale: test scale Q of the map in pixels; if None, the default of the classifier.
        device: as for `verydeep.predict`.

    Returns:
        The files written; existing ones are replaced.

    Raises:
        UserError: if `out` is a .png for several photographs, or a file cannot be written.
        ImageError: if a photograph cannot be read.
    """
    files = pictures(Path(out), [each.image for each in predictions])
    net = loaded(classifier, device)
    for prediction, image, file in zip(predictions, images, files, strict=True):
        (one,) = class_maps(net, image, [scale or test_scale(net.card)])
        number = net.card.names.index(prediction.located[0].name)
        draw_boxes(photograph_of(image), prediction.located, file, one, number)
    return files


def pictures(out: Path, images: Sequence[str]) -> list[Path]:
    """Return the files that `draw_predictions` writes for some photographs, each with another name.

    Raises:
        UserError: if `out` is a .png for several photographs.
    """
    if out.suffix.lower() == ".png":
        if len(images) > 1:
            raise UserError(f"{out} is one picture for {len(images)} photographs; pass a folder")
        return [out][: len(images)]
    files: dict[Path, None] = {}
    for image in images:
        stem = Path(image).stem
        names = (out / f"{stem}{f'-{number}' if number else ''}.png" for number in range(len(images) + 1))
        files[next(name for name in names if name not in files)] = None
    return list(files)
