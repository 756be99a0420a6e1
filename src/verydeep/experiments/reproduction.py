"""Sect. 4 as one function: train what the asked tables need, test it as the paper does, keep what it gave."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from verydeep.computing import Precision
from verydeep.distributed import ranks
from verydeep.experiments.experiment import Options, prepare
from verydeep.experiments.presets import Preset
from verydeep.experiments.record import gather, new_record, results_of, write
from verydeep.experiments.report import make_report
from verydeep.experiments.report.facts import duration
from verydeep.experiments.results import Results
from verydeep.experiments.steps import planned_steps, test_step, time_left, train_step
from verydeep.files import remove_abandoned


def reproduce(
    data: str | Path,
    size: str | Preset,
    tables: Iterable[str] = (),
    seeds: int | Sequence[int] = 1,
    out: str | Path = "reproduction",
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    micro_batch: int = 0,
    skip_unreadable: bool = False,
) -> Results:
    """Run the paper's experiments (Sect. 4), or resume them: a step that is done is not repeated.

    Args:
        data: a folder of photographs or "digits"; see `open_dataset`.
        size: a preset, or the name of one: ilsvrc, imagenette, imagenette-gpu or digits.
        tables: table3 to table7; all where none is named.
        seeds: how many, from 0 on, or which.
        out: the folder of the experiment: run directories below seed-0, seed-1, ..., what was measured, and its
            report as report.html and report.md.
        device: cpu, cuda, mps, or auto for the fastest that is there.
        precision: bf16 computes with bfloat16 where torch's autocast does.
        workers: processes that read images ahead, for each rank; by the number of cores where None.
        micro_batch: images that pass through the net at once on each rank; 0 for its whole share of the batch.
        skip_unreadable: go on without images that cannot be read; each is named.

    Returns:
        What was measured, in this call and in earlier ones on the same folder. It is in `out` too, written anew
        after each net.

    Raises:
        UserError: for wrong arguments, unreadable images, and a folder that holds an experiment of another preset
            or other data.
        Interrupted: after SIGTERM or Ctrl-C, when everything is saved; the same call resumes.
    """
    options = Options(device, precision, workers, micro_batch)
    with ranks(device) as here:
        if here.first:
            remove_abandoned(Path(out))
        experiment = prepare(data, size, tables, seeds, out, options, here, skip_unreadable)
        planned = planned_steps(experiment, experiment.tables, experiment.seeds)
        record = new_record(experiment)
        gather(experiment, record)
        steps = [(seed, training) for seed in experiment.seeds for training in experiment.trainings]
        for number, (seed, training) in enumerate(steps, 1):
            left = time_left(planned, record.seconds)
            rest = "" if left is None else f", {duration(left)} left for all"
            title = f"[{number}/{len(steps)}{rest}] {training.name}, seed {seed}"
            if train_step(experiment, training, seed, title):
                record.forget(training, seed)
            test_step(experiment, training, seed, title)
            gather(experiment, record)
            if here.first:
                write(experiment, record)
            here.wait()
        if here.first:
            make_report(experiment.out, photographs=experiment.data.tested)
        here.wait()
        return results_of(experiment, record)
