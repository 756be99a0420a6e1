"""What an experiment has measured: rows from stored passes, and the files that a report is made from."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from verydeep.evaluation import testing
from verydeep.evaluation.metrics import class_ranks
from verydeep.evaluation.posteriors import PROTOCOLS, average, protocol
from verydeep.experiments.experiment import Experiment
from verydeep.experiments.plan import PAPER_TABLES, Row
from verydeep.experiments.presets import Preset
from verydeep.experiments.results import (
    OUTCOMES,
    RESULTS,
    TIMES,
    Measured,
    Results,
    RowResult,
    Times,
    write_json,
    write_outcomes,
)


def measure_rows(experiment: Experiment, seed: int) -> None:
    """Add up the rows whose nets are all tested, from stored passes alone."""
    for row in experiment.rows:
        done = all((seed, tested.training) in experiment.curves for tested in row.nets)
        if not done or (row.key, seed) in experiment.outcomes.rank:
            continue
        matrix = average(_net_matrices(experiment, row, seed))
        rank, said, loss = outcome(matrix, experiment.data.tested.labels)
        experiment.outcomes.rank[row.key, seed] = rank
        experiment.outcomes.said[row.key, seed] = said
        experiment.outcomes.loss[row.key, seed] = loss


def _net_matrices(experiment: Experiment, row: Row, seed: int) -> Iterator[Float32[np.ndarray, "N K"]]:
    """The posteriors of each net of a row, averaged over its scales and methods."""
    setup = experiment.setup()
    for tested in row.nets:
        net = testing.tested(experiment.folder(tested.training, seed))
        yield average(testing.kept_passes(setup, net, experiment.passes(tested, row.method)))


def outcome(
    posteriors: Float32[np.ndarray, "N K"], labels: Int64[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What posteriors say of each image.

    Returns:
        The place of its class among the posteriors (of equal ones the first is higher), the class of the highest
        one, and -ln(posterior of its class).

    Raises:
        UserError: for posteriors that are not finite.
    """
    rank = class_ranks(posteriors, labels)
    own = np.take_along_axis(posteriors, labels[:, None], axis=1)[:, 0]
    loss = -np.log(np.maximum(own, np.finfo(np.float32).tiny))
    return rank.astype(np.uint16), posteriors.argmax(1).astype(np.uint16), loss.astype(np.float16)


def results_of(experiment: Experiment) -> Results:
    """What is measured so far."""
    data = experiment.data
    return Results(
        preset=preset_data(experiment.preset),
        data=data.name,
        classes=data.tested.classes,
        training_images=len(data.training),
        held_out_images=data.held_out,
        tested_images=len(data.tested),
        tables=experiment.asked,
        seeds=experiment.seeds,
        curves=tuple(
            experiment.curves[seed, training.name]
            for seed in experiment.seeds
            for training in experiment.trainings
            if (seed, training.name) in experiment.curves
        ),
        rows=tuple(
            RowResult(row.key, _protocol(experiment, row), measured)
            for row in experiment.rows
            if (measured := tuple(_measured(experiment, row)))
        ),
    )


def preset_data(chosen: Preset) -> dict[str, Any]:
    """A preset as JSON has it."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(chosen)))
    return data


def _protocol(experiment: Experiment, row: Row) -> str:
    """How a row is measured, in pixels."""
    each = (
        protocol(row.method, [experiment.preset.scale(q) for q in tested.scales], experiment.flip)
        for tested in row.nets
    )
    text = "; ".join(dict.fromkeys(each))
    grid = experiment.preset.grid
    return f"{text}, {grid} x {grid} crops" if "multi-crop" in PROTOCOLS[row.method] else text


def _measured(experiment: Experiment, row: Row) -> Iterator[Measured]:
    outcomes = experiment.outcomes
    for seed in experiment.seeds:
        if (row.key, seed) in outcomes.rank:
            rank, loss = outcomes.rank[row.key, seed], outcomes.loss[row.key, seed]
            yield Measured(
                seed, int((rank > 0).sum()), int((rank >= 5).sum()), round(float(loss.mean(dtype=np.float64)), 5)
            )


def write(experiment: Experiment) -> None:
    """Write results.json, times.json and outcomes.safetensors."""
    out = experiment.out
    write_outcomes(experiment.outcomes, out / OUTCOMES)
    distinct = {json.dumps(each, sort_keys=True): each for each in experiment.environments}
    asked = " ".join(table for table in experiment.asked if table in PAPER_TABLES)
    command = (
        f"verydeep reproduce {asked} --data {experiment.data.name} --preset {experiment.preset.name} "
        f"--seeds {len(experiment.seeds)}"
    )
    times = Times(tuple(experiment.steps.values()), tuple(distinct.values()), command)
    write_json(times, out / TIMES)
    write_json(results_of(experiment), out / RESULTS)
