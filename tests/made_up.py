"""Made-up but plausible results of the whole plan, for tests and to view a report:

python tests/made_up.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np

from verydeep.experiments.plan import JITTERED, TABLES, TRAININGS, Training, measured_rows, needed_trainings
from verydeep.experiments.results import (
    OUTCOMES,
    RESULTS,
    TIMES,
    Curve,
    Measured,
    Outcomes,
    Results,
    RowResult,
    Step,
    Times,
    write_json,
    write_outcomes,
)

CLASSES = (
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck",
    "gas pump", "golf ball", "parachute",
)  # fmt: skip
SCALES = {224: 128, 256: 160, 288: 192, 352: 192, 384: 224, 416: 256, 512: 320}
_STRENGTH = {"A": 1.0, "A-LRN": 0.98, "B": 1.06, "B-5x5": 0.9, "C": 1.1, "D": 1.2, "E": 1.18}
_METHOD = {"dense": 0.0, "multi-crop": 0.01, "both": 0.03, "centre-crop": -0.05, "windows": 0.0}


def made_up(
    seeds: tuple[int, ...] = (0, 1, 2),
    images: int = 400,
    tables: tuple[str, ...] = tuple(TABLES),
    classes: tuple[str, ...] = CLASSES,
) -> tuple[Results, Times, Outcomes]:
    """Return a finished experiment."""
    draw = np.random.default_rng(0)
    labels = np.arange(images) % len(classes)
    ease = draw.normal(0.6, 1.2, images)
    names = tuple(f"val/{classes[label]}/{number:05}.JPEG" for number, label in enumerate(labels))
    outcomes = Outcomes(labels.astype(np.int64), names)
    chosen = [TABLES[name] for name in tables]
    rows = []
    for row in measured_rows(chosen):
        strength = np.mean([_strength(TRAININGS[net.training]) + _scales(net.scales) for net in row.nets])
        strength += _METHOD[row.method] + 0.05 * np.log(len(row.nets))
        measured = []
        for seed in seeds:
            score = ease + strength - 0.8 + 0.25 * np.random.default_rng([seed, len(row.key)]).normal(size=images)
            rank = np.where(score > 0, 0, np.minimum(1 + (-2 * score).astype(int), len(classes) - 1))
            said = np.where(rank == 0, labels, (labels + 1 + (rank > 2)) % len(classes))
            loss = np.log1p(np.exp(-2 * score))
            outcomes.rank[row.key, seed] = rank.astype(np.uint16)
            outcomes.said[row.key, seed] = said.astype(np.uint16)
            outcomes.loss[row.key, seed] = loss.astype(np.float16)
            measured.append(Measured(seed, int((rank > 0).sum()), int((rank >= 5).sum()), float(loss.mean())))
        scales = dict.fromkeys(SCALES[q] for net in row.nets for q in net.scales)
        protocol = f"{row.method}, Q = {', '.join(map(str, scales))}, with mirror images"
        rows.append(RowResult(row.key, protocol, tuple(measured)))
    trainings = needed_trainings(chosen)
    curves = tuple(_curve(training, seed) for training in trainings for seed in seeds)
    results = Results(
        preset={
            "name": "imagenette",
            "recipe": {"crop": 128, "width": 0.125, "fully_connected": 512, "batch": 64},
            "scales": {str(paper): here for paper, here in SCALES.items()},
            "schedules": {"random": {"epochs": 18, "drop_after": [13, 16], "patience": None}},
            "hold_out": 0.05,
            "grid": 3,
            "controls": True,
        },
        data="imagenette",
        classes=classes,
        training_images=9469,
        held_out_images=470,
        tested_images=images,
        tables=tables,
        seeds=seeds,
        curves=curves,
        rows=tuple(rows),
    )
    return results, _times(trainings, rows, seeds), outcomes


def _scales(scales: tuple[int, ...]) -> float:
    return 0.05 * len(scales) - 0.0003 * abs(scales[0] - 300) * (len(scales) == 1)


def _strength(training: Training) -> float:
    return _STRENGTH[training.net] + {(256,): 0.0, (384,): 0.02}.get(training.scale, 0.09)


def _curve(training: Training, seed: int) -> Curve:
    epochs = 4 if training.stage in ("fine-tuning", "jittering") else 18
    draw = np.random.default_rng([seed, len(training.name)])
    time = np.arange(1, epochs + 1) + (14 if epochs == 4 else 0)
    rate = np.where(np.arange(epochs) < 0.7 * epochs, 0.01, 0.001)
    noise = 0.02 * draw.normal(size=epochs) * (rate > 0.005)
    error = (0.2 + 0.7 * np.exp(-time / 5) + noise) / _strength(training)
    return Curve(
        training.name,
        seed,
        training.net,
        training.start,
        tuple(SCALES[pixels] for pixels in training.scale),
        training.control,
        epochs,
        141 * epochs,
        f"{epochs} epochs are done",
        tuple((2.3 * error + 0.1).round(4).tolist()),
        tuple(np.minimum(1.2 * error, 1).round(4).tolist()),
        tuple(np.minimum(error, 1).round(4).tolist()),
        f"centre-crop, Q = {240 if training.scale == JITTERED else 160}, no mirror images",
        tuple(rate.tolist()),
    )


def _times(trainings, rows, seeds) -> Times:
    steps = [Step(f"train {each.name}", seed, 180.5 + seed, 170_000, 3e13) for each in trainings for seed in seeds]
    steps += [Step(f"test {row.key}", seed, 12.25, 7850, 2e12) for row in rows for seed in seeds]
    environment = {
        "python": "3.11.9",
        "processor": "x86_64",
        "versions": {"verydeep": "0.2.0", "torch": "2.6.0+cpu"},
        "threads": 2,
        "gpu": None,
    }
    return Times(
        tuple(steps), (environment,), "verydeep reproduce --data imagenette --preset imagenette --seeds 3"
    )


def write(folder: Path, results: Results, times: Times, outcomes: Outcomes) -> Path:
    """Write an experiment to a folder."""
    write_json(results, folder / RESULTS)
    write_json(times, folder / TIMES)
    write_outcomes(outcomes, folder / OUTCOMES)
    return folder


if __name__ == "__main__":
    from verydeep.experiments.report import make_report

    place = write(Path(sys.argv[1]), *made_up())
    print(*make_report(place), sep="\n")
