"""Appendix A as one function: train and test the box regressors of its tables, store and report the results."""

import hashlib
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from verydeep.computing import Precision
from verydeep.datasets.dataset import Dataset, compare_classes, selected
from verydeep.distributed import Ranks, ranks
from verydeep.errors import UserError
from verydeep.evaluation.protocols import check_scales
from verydeep.experiments.experiment import Data, Experiment, Options, open_data
from verydeep.experiments.localisation.plan import (
    CLASSIFIERS,
    FUSION,
    TABLES,
    TRAININGS,
    BoxRow,
    BoxTable,
    BoxTested,
    BoxTraining,
    chosen_box_tables,
    measured_box_rows,
)
from verydeep.experiments.localisation.presets import BoxPreset, box_preset
from verydeep.experiments.localisation.report import write_box_report
from verydeep.experiments.localisation.results import (
    FORMAT,
    BoxCurve,
    BoxMeasured,
    BoxMeasurements,
    BoxResults,
    Wrong,
    read_box_measurements,
    write_box_measurements,
)
from verydeep.experiments.plan import TRAININGS as CLASSIFICATION
from verydeep.experiments.presets import DRAWN_ANEW
from verydeep.experiments.steps import ended_run, train_step
from verydeep.files import digest
from verydeep.interop.loading import load, located, read_card
from verydeep.localisation.annotations import Annotated
from verydeep.localisation.data import Splits, digest_of, of_photographs, open_boxes
from verydeep.localisation.drawing import Example, draw_examples
from verydeep.localisation.errors import Hits, baseline_boxes
from verydeep.localisation.testing import Regressor, locate
from verydeep.localising import (
    BoxResult,
    Tested,
    box_changes,
    centre_result,
    check_classifier,
    dense_result,
    train_boxes,
    whole_posteriors,
)
from verydeep.progress import say
from verydeep.task import colours_of, description, surveyed
from verydeep.training.run import move_aside, read_run

CHAIN = ("A", "D", "D-384")
"""The trainings of Sect. 4 that the classification nets need, in order."""


@dataclass(frozen=True, eq=False)
class BoxExperiment:
    """What to train and test, and on which photographs."""

    preset: BoxPreset
    tables: tuple[BoxTable, ...]
    seeds: tuple[int, ...]
    splits: Splits
    tested: Annotated
    """The validation photographs that can be read."""
    classification: Data
    """What the classification nets are trained on."""
    given: Mapping[int, Path]
    """Weight files of classification nets by S, if they are given."""
    out: Path
    options: Options
    here: Ranks

    @property
    def rows(self) -> tuple[BoxRow, ...]:
        """The rows to measure."""
        return measured_box_rows(self.tables)

    @property
    def trainings(self) -> tuple[BoxTraining, ...]:
        """The box regressors that the rows need, in order."""
        needed = {tested.training for row in self.rows for tested in row.nets}
        return tuple(each for each in TRAININGS.values() if each.name in needed)

    def folder(self, training: str, seed: int) -> Path:
        """Return the run directory of a box regressor."""
        return self.out / f"seed-{seed}" / f"boxes-{training}"

    def classifier(self, scale: int, seed: int) -> Path:
        """Return the run or weight file of a classification net, by the paper's S."""
        return self.given.get(scale) or self.out / f"seed-{seed}" / CLASSIFIERS[scale]


def reproduce_boxes(
    boxes: str | Path | Splits,
    size: str | BoxPreset,
    tables: Iterable[str] = (),
    seeds: int | Sequence[int] = 1,
    out: str | Path = "reproduction",
    *,
    data: str | Path | None = None,
    photographs: str | Path | None = None,
    classifiers: Sequence[str | Path] = (),
    device: str = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    micro_batch: int = 0,
    deterministic: bool = False,
    skip_unreadable: bool = False,
) -> BoxMeasurements:
    """Run the localisation experiments of Appendix A, or resume them: finished steps are not repeated.

    Args:
        boxes: photographs with boxes; see `open_boxes`.
        size: a preset, or the name of one: digits, imagenette, imagenette-gpu or ilsvrc.
        tables: table8, table9 and table10; all if empty.
        seeds: the number of seeds, counted from 0, or the seeds themselves.
        out: the folder of the experiment: run directories below seed-0, seed-1, ..., localisation.json, the report
            as localisation.html and localisation.md, and with Table 9 twenty predictions as localisation.png.
        data: photographs to train the classification nets on, as for `verydeep.train`; if None, those with boxes.
            In `out`, these nets are also those of `reproduce` for Tables 3 to 7.
        photographs: the folder that the files of `boxes` are in; see `open_boxes`.
        classifiers: nets to start from instead of training them: for S = 256 and, unless only Table 8 is made, for
            S = 384.
        device: cpu, cuda, mps, or auto for the fastest available.
        precision: as for `verydeep.train`.
        workers: processes per rank that prefetch images; if None, chosen from the number of cores.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
        deterministic: whether CUDA GPUs give the same bits every time, as CPUs always do.
        skip_unreadable: whether to leave out images that cannot be read, and name each.

    Returns:
        The measurements of this call and of earlier ones on the same folder. They are in `out`, too.

    Raises:
        UserError: for wrong arguments, unreadable images, or a folder with an experiment on other boxes.
        Interrupted: after SIGTERM or Ctrl-C, once everything is saved; the same call resumes.
    """
    chosen = size if isinstance(size, BoxPreset) else box_preset(size)
    asked = chosen_box_tables(tables)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= number < DRAWN_ANEW for number in numbers):
        raise UserError(f"seeds is {seeds}; pass at least one, each once, from 0 to {DRAWN_ANEW - 1}")
    splits = boxes if isinstance(boxes, Splits) else open_boxes(boxes, photographs)
    given = _given(classifiers, chosen, splits)
    options = Options(device, precision, workers, micro_batch, deterministic)
    with ranks(device, deterministic) as here:
        options.computing(here.device).check(here.device)
        largest = max(chosen.classification.scales.values())
        readable, _ = surveyed(splits.val.dataset, "val", skip_unreadable, here, largest)
        images = (
            _data_of(splits, here, skip_unreadable)
            if data is None or given
            else open_data(data, chosen.classification, here, skip_unreadable)
        )
        tested = of_photographs(splits.val, readable)
        if not given:
            compare_classes(splits.val.dataset.classes, images.training.classes, splits.place, images.name)
        out = Path(out)
        experiment = BoxExperiment(chosen, asked, numbers, splits, tested, images, given, out, options, here)
        found = _measurements(experiment)
        for seed in numbers:
            for training in experiment.trainings:
                curve = _trained(experiment, training, seed)
                found = _kept(experiment, replace(found, results=_with_curve(found.results, curve)))
            for row in experiment.rows:
                found = _kept(experiment, _with_row(experiment, found, row, seed))
        if here.first:
            write_box_report(found, out)
            if FUSION in experiment.rows:
                draw_some(experiment, found, numbers[0])
        here.wait()
        return found


def _kept(experiment: BoxExperiment, found: BoxMeasurements) -> BoxMeasurements:
    """Write measurements, on the first rank."""
    if experiment.here.first:
        write_box_measurements(found, experiment.out)
    return found


def _given(classifiers: Sequence[str | Path], chosen: BoxPreset, splits: Splits) -> dict[int, Path]:
    """Return the weight files of classification nets that are given, by the paper's S.

    Raises:
        UserError: if there are too many, or one cannot be used with these photographs or at these scales.
    """
    if len(classifiers) > len(CLASSIFIERS):
        raise UserError(f"there are {len(classifiers)} classifiers; pass one for S = 256 and one for S = 384")
    found = {}
    for scale, source in zip(CLASSIFIERS, classifiers, strict=False):
        card = read_card(source)
        compare_classes(splits.val.dataset.classes, card.names, splits.place, str(source))
        check_scales([chosen.classification.scale(scale)], card.architecture.crop)
        found[scale] = located(source).path
    return found


def _data_of(splits: Splits, here: Ranks, skip_unreadable: bool) -> Data:
    """Return photographs with boxes as images for classification."""
    training, found = surveyed(splits.train.dataset, "train", skip_unreadable, here)
    validation, sizes = surveyed(splits.val.dataset, "val", skip_unreadable, here)
    described = description(splits.place, training, validation, colours_of(found))
    names = tuple(map(str, range(len(validation))))
    return Data(training.name, training, validation, validation, names, 0, sizes.sizes, described)


def _measurements(experiment: BoxExperiment) -> BoxMeasurements:
    """Return the measurements in the folder that still hold, or none.

    Raises:
        UserError: if they are of another preset or on other photographs.
    """
    given = ", ".join(f"{path.parent.name}/{path.name}" for path in experiment.given.values())
    splits, preset = experiment.splits, experiment.preset
    results = BoxResults(
        FORMAT,
        Path(splits.place).name,
        _plain(preset),
        given or f"trained on {experiment.classification.name}, preset {preset.classification.name}",
        splits.val.dataset.classes,
        len(splits.train),
        len(experiment.tested),
        len(splits.train.without),
        tuple(table.name for table in experiment.tables),
        experiment.seeds,
        environment=_environment(experiment),
    )
    there = read_box_measurements(experiment.out)
    if there is None:
        return BoxMeasurements(results, {})
    before = there.results
    if (before.preset.get("name"), before.classes, before.tested_images) != (
        preset.name,
        results.classes,
        results.tested_images,
    ):
        raise UserError(
            f"{experiment.out} contains a localisation experiment with preset {before.preset.get('name')} and "
            f"{before.tested_images} tested photographs of {before.data}; choose another folder with --out"
        )
    tables = tuple(name for name in TABLES if name in (*before.tables, *results.tables))
    seeds = tuple(sorted({*before.seeds, *results.seeds}))
    results = replace(results, tables=tables, seeds=seeds, curves=before.curves, rows=before.rows)
    return BoxMeasurements(results, there.hits)


def _plain(preset: BoxPreset) -> dict[str, object]:
    scales = {str(paper): pixels for paper, pixels in preset.classification.scales.items()}
    schedule = {name: value for name, value in asdict(preset.schedule).items() if value not in (None, ())}
    return {"name": preset.name, "recipe": preset.recipe, "schedule": schedule, "scales": scales}


def _environment(experiment: BoxExperiment) -> dict[str, str]:
    return {
        "verydeep": version("verydeep"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(experiment.here.device),
        "threads": str(torch.get_num_threads()),
    }


def _trained(experiment: BoxExperiment, training: BoxTraining, seed: int) -> BoxCurve:
    """Train a box regressor, and before it the classification net that it starts from, unless they are trained.

    If the recipe, the boxes or the classification net have changed, the earlier run is moved aside.
    """
    here, options = experiment.here, experiment.options
    title = f"{training.name}, seed {seed}"
    _train_classifiers(experiment, training.scale, seed)
    folder = experiment.folder(training.name, seed)
    start = experiment.classifier(training.scale, seed)
    recipe = experiment.preset.training(training, seed, str(start), read_card(start).architecture)
    changed = box_changes(experiment.splits, recipe, folder, training.regression, here)
    if here.first and changed:
        aside = move_aside(folder)
        say(f"{title}: training again because of changes: {'; '.join(changed)}. The earlier run is now {aside}")
    here.wait()
    if ended_run(folder) is None:
        if here.first:
            layers = " ".join(training.learns) or "all layers"
            scale = recipe.training_scale[0]
            say(f"{title}: training a box regressor from {training.start}, {layers}, S = {scale}")
        train_boxes(
            experiment.splits,
            recipe,
            folder,
            regression=training.regression,
            device=options.device,
            precision=options.precision,
            workers=options.workers,
            micro_batch=options.micro_batch,
            deterministic=options.deterministic,
        )
    run = read_run(folder)
    return BoxCurve(
        training.name,
        seed,
        training.start,
        run.recipe.training_scale,
        " ".join(training.learns) or "all",
        len(run.epochs),
        run.epochs[-1].iteration,
        tuple(epoch.loss for epoch in run.epochs),
        tuple(epoch.training_error for epoch in run.epochs),
        tuple(epoch.validation_error for epoch in run.epochs),
        tuple(epoch.rate for epoch in run.epochs),
        round(sum(epoch.seconds for epoch in run.epochs), 1),
    )


def _train_classifiers(experiment: BoxExperiment, scale: int, seed: int) -> None:
    """Train the classification net for a scale, and those that it starts from, by the plan of Sect. 4.

    Raises:
        UserError: if nets are given, but none for this scale.
    """
    if scale in experiment.given:
        return
    if experiment.given:
        raise UserError(f"there is no classifier for S = {scale}; pass one for S = 256 and one for S = {scale}")
    whole = Experiment(
        experiment.preset.classification,
        (),
        experiment.seeds,
        (),
        experiment.seeds,
        experiment.classification,
        experiment.out,
        experiment.options,
        experiment.here,
    )
    for name in CHAIN[: CHAIN.index(CLASSIFIERS[scale]) + 1]:
        train_step(whole, CLASSIFICATION[name], seed, f"{name}, seed {seed}")


def _with_curve(results: BoxResults, curve: BoxCurve) -> BoxResults:
    others = (each for each in results.curves if (each.training, each.seed) != (curve.training, curve.seed))
    return replace(results, curves=(*others, curve))


def _with_row(experiment: BoxExperiment, found: BoxMeasurements, row: BoxRow, seed: int) -> BoxMeasurements:
    """Return measurements with a row, which is measured unless it is there, for the same weights and boxes."""
    identity = _identity(experiment, row, seed)
    there = found.results.measured(row.key, seed)
    if there is not None and there.identity == identity:
        return found
    if experiment.here.first:
        say(f"testing {row.key}, seed {seed}")
    started = time.monotonic()
    result = _measured(experiment, row, seed)
    others = (each for each in found.results.rows if (each.key, each.seed) != (row.key, seed))
    measured = BoxMeasured(
        row.key,
        seed,
        result.protocol,
        identity,
        _wrong(result.hits),
        None if result.classes is None else Wrong(result.classes[0].wrong, result.classes[1].wrong),
        {each.name: Wrong(each.top1.wrong, each.top5.wrong if each.top5 else None) for each in result.baselines},
        round(time.monotonic() - started, 1),
    )
    rows = replace(found.results, rows=(*others, measured))
    return BoxMeasurements(rows, found.hits | {(row.key, seed): result.hits})


def _wrong(hits: Hits) -> Wrong:
    top1, top5 = hits.errors
    return Wrong(top1.wrong, top5.wrong if top5 else None)


def _identity(experiment: BoxExperiment, row: BoxRow, seed: int) -> str:
    """Return what a row's result depends on: weights, scales, boxes."""
    parts = [row.protocol, digest_of(experiment.tested), digest_of(experiment.splits.train)]
    for tested in row.nets:
        files = [experiment.folder(tested.training, seed)]
        if row.protocol == "dense":
            files.append(experiment.classifier(TRAININGS[tested.training].scale, seed))
        parts += [digest(located(file).path) for file in files]
        parts += [str(experiment.preset.classification.scale(q)) for q in tested.scales]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _measured(experiment: BoxExperiment, row: BoxRow, seed: int) -> BoxResult:
    here = experiment.here
    computing = experiment.options.computing(here.device)
    boxes = baseline_boxes(experiment.splits.train, experiment.tested)
    nets = [_loaded(experiment, tested, seed) for tested in row.nets]
    scales = [_scales(experiment, tested) for tested in row.nets]
    if row.protocol == "centre-crop":
        return centre_result(nets[0], experiment.tested, scales[0][0], boxes, here, computing)
    return dense_result(nets, _regressors(experiment, row, seed), experiment.tested, boxes, here, computing)


def _regressors(experiment: BoxExperiment, row: BoxRow, seed: int) -> list[Regressor]:
    """Return the regressors of a row with their classification nets and scales."""
    regressors = []
    nets = [_loaded(experiment, tested, seed) for tested in row.nets]
    scales = [_scales(experiment, tested) for tested in row.nets]
    for tested, net, q in zip(row.nets, nets, scales, strict=True):
        source = experiment.classifier(TRAININGS[tested.training].scale, seed)
        classifier = load(source).to(experiment.here.device)
        check_classifier(classifier, str(source))
        regressors.append(Regressor(net.net, classifier, q))
    return regressors


EXAMPLES, PICTURE = 20, "localisation.png"
"""How many predictions are drawn, half of them right and half wrong if there are as many, and the file."""


def draw_some(experiment: BoxExperiment, found: BoxMeasurements, seed: int) -> None:
    """Draw predictions of both nets together for photographs drawn at random, right ones first.

    The picture is not part of the results: photographs may not be passed on.
    """
    right = found.hits[FUSION.key, seed].top1
    order = np.random.default_rng(0).permutation(len(right))
    good, bad = (order[right[order] == wanted].tolist() for wanted in (True, False))
    of_good = max(min(len(good), EXAMPLES // 2), EXAMPLES - len(bad))
    rows = good[:of_good] + bad[: EXAMPLES - min(of_good, len(good))]
    tested, regressors = experiment.tested, _regressors(experiment, FUSION, seed)
    photographs = selected(tested.dataset.photographs, np.array(rows, np.int64))
    part = Dataset("examples", tested.dataset.classes, photographs, tested.dataset.labels[rows])
    computing = replace(experiment.options.computing(experiment.here.device), progress=False)
    posteriors = whole_posteriors(regressors, part, Ranks(device=experiment.here.device), computing)
    predicted = locate(regressors, part, posteriors, computing, top=1)
    examples = [
        Example(part[at].image, each, part.classes[part.labels[at]], tested.boxes[row], bool(right[row]))
        for at, (row, (each,)) in enumerate(zip(rows, predicted, strict=True))
    ]
    draw_examples(examples, experiment.out / PICTURE)


def _loaded(experiment: BoxExperiment, tested: BoxTested, seed: int) -> Tested:
    folder = experiment.folder(tested.training, seed)
    return Tested(str(folder), load(folder).to(experiment.here.device))


def _scales(experiment: BoxExperiment, tested: BoxTested) -> tuple[int, ...]:
    return tuple(experiment.preset.classification.scale(q) for q in tested.scales)
