"""Sect. 4 as one function: train and test the nets of the tables, store and report the results."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from verydeep.computing import Precision
from verydeep.distributed import ranks
from verydeep.experiments.experiment import Options, prepare
from verydeep.experiments.presets import Preset
from verydeep.experiments.record import gather, new_record, results_of, times_of, write
from verydeep.experiments.report.facts import duration
from verydeep.experiments.report.making import PAGES, write_report
from verydeep.experiments.report.measurements import Measurements
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
    deterministic: bool = False,
    skip_unreadable: bool = False,
) -> Measurements:
    """Run the paper's experiments (Sect. 4), or resume them: finished steps are not repeated.

    Args:
        data: a folder of photographs, or "digits"; see `open_dataset`.
        size: a preset, or the name of one: ilsvrc, imagenette, imagenette-gpu or digits.
        tables: table3 to table7; all if empty.
        seeds: the number of seeds, counted from 0, or the seeds themselves.
        out: the folder of the experiment: run directories below seed-0, seed-1, ..., the results, and the report
            as report.html and report.md.
        device: cpu, cuda, mps, or auto for the fastest available.
        precision: as for `verydeep.train`.
        workers: processes per rank that prefetch images; if None, chosen from the number of cores.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
        deterministic: whether CUDA GPUs give the same bits every time, as CPUs always do.
        skip_unreadable: whether to leave out images that cannot be read, and name each.

    Returns:
        The measurements of this call and of earlier ones on the same folder. They are in `out` too, rewritten
        after each net.

    Raises:
        UserError: for wrong arguments, unreadable images, or a folder with an experiment of another preset or on
            other data.
        Interrupted: after SIGTERM or Ctrl-C, once everything is saved; the same call resumes.
    """
    options = Options(device, precision, workers, micro_batch, deterministic)
    with ranks(device, deterministic) as here:
        options.computing(here.device).check(here.device)
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
        found = Measurements(results_of(experiment, record), times_of(experiment, record), record.outcomes)
        if here.first:
            pages = [experiment.out / name for name in PAGES]
            write_report(found, pages, experiment.data.tested)
        here.wait()
        return found
