"""The measurements of an experiment so far, gathered from its runs, and the files for its report."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from verydeep.evaluation import testing
from verydeep.evaluation.metrics import class_ranks
from verydeep.evaluation.posteriors import average
from verydeep.evaluation.protocols import PROTOCOLS, Pass, protocol
from verydeep.experiments.experiment import Experiment
from verydeep.experiments.plan import PAPER_TABLES, Row, Training, needed_trainings
from verydeep.experiments.presets import Preset
from verydeep.experiments.results import (
    OUTCOMES,
    RESULTS,
    TIMES,
    Curve,
    Measured,
    Outcomes,
    Results,
    RowResult,
    Times,
    write_json,
    write_outcomes,
)
from verydeep.experiments.steps import ended_run, noted_seconds, planned_steps, test_name, train_name
from verydeep.training.run import ENVIRONMENT, Run, changes


@dataclass(eq=False)
class Record:
    """The measurements of an experiment so far."""

    outcomes: Outcomes
    curves: dict[tuple[int, str], Curve] = field(default_factory=dict)
    """Curves of finished trainings, by seed and name of the training."""
    stored: dict[tuple[int, str], frozenset[Pass]] = field(default_factory=dict)
    """The stored passes of each net."""
    seconds: dict[tuple[int, str], float] = field(default_factory=dict)
    """Time of each step, by seed and name."""
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The distinct environments in which nets were trained."""

    def forget(self, training: Training, seed: int) -> None:
        """Forget a net that has been trained again, and all rows that include it."""
        self.curves.pop((seed, training.name), None)
        self.stored.pop((seed, training.name), None)
        for number, name in list(self.seconds):
            if number == seed and (name == train_name(training) or name.startswith(f"test {training.name},")):
                del self.seconds[number, name]
        for found in (self.outcomes.rank, self.outcomes.said, self.outcomes.loss):
            for key, number in list(found):
                nets = {part.partition("@")[0] for part in key.split(" + ")}
                if number == seed and training.name in nets:
                    del found[key, number]


def new_record(experiment: Experiment) -> Record:
    """Return an empty record."""
    return Record(Outcomes(experiment.data.tested.labels, experiment.data.names))


def gather(experiment: Experiment, record: Record) -> None:
    """Add every trained net, and every row whose passes are stored, to a record. Nothing is trained or tested.

    A net counts only if neither it nor the net it starts from would be trained again.
    """
    for seed in experiment.shown_seeds:
        for training in needed_trainings(experiment.shown_tables):
            key, folder = (seed, training.name), experiment.folder(training.name, seed)
            if training.start is not None and (seed, training.start) not in record.curves:
                continue
            if key not in record.curves:
                if (run := ended_run(folder)) is None:
                    continue
                if changes(folder, experiment.recipe(training, seed), experiment.data.described):
                    continue
                record.curves[key] = _curve(training, seed, run)
                record.environments |= _environments(folder)
                record.seconds[seed, train_name(training)] = round(sum(epoch.seconds for epoch in run.epochs), 1)
            _gather_passes(experiment, record, training, seed)
        for row in experiment.rows:
            if (row.key, seed) not in record.outcomes.rank and _is_stored(experiment, record, row, seed):
                matrix = average(_net_matrices(experiment, row, seed))
                rank, said, loss = outcome(matrix, experiment.data.tested.labels)
                record.outcomes.rank[row.key, seed] = rank
                record.outcomes.said[row.key, seed] = said
                record.outcomes.loss[row.key, seed] = loss


def _gather_passes(experiment: Experiment, record: Record, training: Training, seed: int) -> None:
    """Record which passes of a trained net are stored, and their times."""
    needed = experiment.passes_of(training.name, experiment.shown_tables)
    if record.stored.get((seed, training.name)) == frozenset(needed):
        return
    folder = experiment.folder(training.name, seed)
    missing = testing.missing_passes(experiment.setup, testing.tested(folder), needed)
    record.stored[seed, training.name] = frozenset(needed) - frozenset(missing)
    noted = noted_seconds(folder)
    for one in record.stored[seed, training.name]:
        name = test_name(training, one)
        record.seconds[seed, name] = noted.get(name, 0.0)


def _is_stored(experiment: Experiment, record: Record, row: Row, seed: int) -> bool:
    """Return whether all passes of a row are stored."""
    return all(
        set(experiment.passes(tested, row.method)) <= record.stored.get((seed, tested.training), frozenset())
        for tested in row.nets
    )


def _net_matrices(experiment: Experiment, row: Row, seed: int) -> Iterator[Float32[np.ndarray, "N K"]]:
    """Yield the posteriors of each net of a row, averaged over its scales and methods."""
    for tested in row.nets:
        net = testing.tested(experiment.folder(tested.training, seed))
        yield average(testing.kept_passes(experiment.setup, net, experiment.passes(tested, row.method)))


def outcome(
    posteriors: Float32[np.ndarray, "N K"], labels: Int64[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the outcome of each image.

    Returns:
        The rank of the image's class among the posteriors (0 is the highest; of equal ones the first ranks
        higher), the class with the highest posterior, and -ln(posterior of the image's class).

    Raises:
        UserError: if a posterior is not finite.
    """
    rank = class_ranks(posteriors, labels)
    own = np.take_along_axis(posteriors, labels[:, None], axis=1)[:, 0]
    loss = -np.log(np.maximum(own, np.finfo(np.float32).tiny))
    return rank.astype(np.uint16), posteriors.argmax(1).astype(np.uint16), loss.astype(np.float16)


def _curve(training: Training, seed: int, run: Run) -> Curve:
    epochs = run.epochs
    return Curve(
        training.name,
        seed,
        training.net,
        training.start,
        run.recipe.training_scale,
        training.control,
        len(epochs),
        epochs[-1].iteration,
        run.ended,
        tuple(round(epoch.loss, 5) for epoch in epochs),
        tuple(round(epoch.training_error, 5) for epoch in epochs),
        tuple(round(epoch.validation_error, 5) for epoch in epochs),
        epochs[-1].validation_protocol,
        tuple(epoch.rate for epoch in epochs),
    )


_OF_AN_ENVIRONMENT = (
    "versions",
    "python",
    "system",
    "processor",
    "cpu",
    "gpu",
    "device",
    "ranks",
    "threads",
    "engine",
)


def _environments(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the distinct environments in which a run was started, each keyed by its text."""
    try:
        starts = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        found = [
            {name: start.get(name) for name in _OF_AN_ENVIRONMENT}
            | {"precision": start.get("computing", {}).get("precision")}
            for start in starts
        ]
    except (OSError, ValueError, AttributeError):  # for information only: no reason to stop
        found = []
    return {json.dumps(each, sort_keys=True): each for each in found}


def results_of(experiment: Experiment, record: Record) -> Results:
    """Return the results so far."""
    data = experiment.data
    return Results(
        preset=preset_data(experiment.preset),
        data=data.name,
        classes=data.tested.classes,
        training_images=len(data.training),
        held_out_images=data.held_out,
        tested_images=len(data.tested),
        tables=tuple(table.name for table in experiment.shown_tables),
        seeds=experiment.shown_seeds,
        curves=tuple(
            record.curves[seed, training.name]
            for seed in experiment.shown_seeds
            for training in needed_trainings(experiment.shown_tables)
            if (seed, training.name) in record.curves
        ),
        rows=tuple(
            RowResult(row.key, _protocol(experiment, row), measured)
            for row in experiment.rows
            if (measured := tuple(_measured(experiment, record, row)))
        ),
    )


def preset_data(chosen: Preset) -> dict[str, Any]:
    """Return a preset as JSON data."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(chosen)))
    return data


def _protocol(experiment: Experiment, row: Row) -> str:
    """Describe how a row is measured, with Q in pixels."""
    each = (
        protocol(row.method, [experiment.preset.scale(q) for q in tested.scales], experiment.flip)
        for tested in row.nets
    )
    text = "; ".join(dict.fromkeys(each))
    grid = experiment.preset.grid
    return f"{text}, {grid} x {grid} crops" if "multi-crop" in PROTOCOLS[row.method] else text


def _measured(experiment: Experiment, record: Record, row: Row) -> Iterator[Measured]:
    outcomes = record.outcomes
    for seed in experiment.shown_seeds:
        if (row.key, seed) in outcomes.rank:
            rank, loss = outcomes.rank[row.key, seed], outcomes.loss[row.key, seed]
            yield Measured(
                seed, int((rank > 0).sum()), int((rank >= 5).sum()), round(float(loss.mean(dtype=np.float64)), 5)
            )


def times_of(experiment: Experiment, record: Record) -> Times:
    """Return the times of the finished steps."""
    planned = planned_steps(experiment, experiment.shown_tables, experiment.shown_seeds)
    steps = (replace(step, seconds=record.seconds[key]) for key, step in planned.items() if key in record.seconds)
    return Times(tuple(steps), tuple(record.environments.values()), _command(experiment))


def _command(experiment: Experiment) -> str:
    """Return the command that makes this experiment; the data and the folder are named without their paths."""
    names = " ".join(table.name for table in experiment.shown_tables if table.name in PAPER_TABLES)
    count = len(experiment.shown_seeds)
    seeds = f" --seeds {count}" if experiment.shown_seeds == tuple(range(count)) else ""
    precision = "" if experiment.options.precision == "fp32" else f" --precision {experiment.options.precision}"
    same = " --deterministic" if experiment.options.deterministic else ""
    data = f"--data {experiment.data.name} --preset {experiment.preset.name}"
    return f"verydeep reproduce {names} {data}{seeds}{precision}{same} --out {experiment.out.name}"


def write(experiment: Experiment, record: Record) -> None:
    """Write outcomes.safetensors, times.json and results.json."""
    write_outcomes(record.outcomes, experiment.out / OUTCOMES)
    write_json(times_of(experiment, record), experiment.out / TIMES)
    write_json(results_of(experiment, record), experiment.out / RESULTS)
