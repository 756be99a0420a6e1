"""Cost of digests and checks: reading photographs, surveying them and saving, compared with an earlier version.

Claim: compared with the earlier version, reading the training photographs and ending an epoch take longer by at
most 2% of an epoch. The epoch is that of the miniature of net A (crop 96, width 1/8, 64 images per mini-batch).
The survey, which happens once per data set, is only measured. Each measurement runs in a process of its own, the
versions take turns, and medians over the rounds are reported.

    git worktree add --detach EARLIER REVISION
    python benchmarks/safeguards.py PHOTOGRAPHS --earlier EARLIER
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from claims import ROOT, Claim, Observation, destination, options, record
from photographs import write_photographs

MOST = 0.02
"""Bound of the claim, as a share of an epoch."""

PROBE = """
import json, sys, time
from pathlib import Path
import numpy as np
import verydeep
try:
    from verydeep.photographs.rescaling import rescale_and_crop
    from verydeep.datasets.survey import survey
except ImportError:  # before version 0.3
    from verydeep.images import rescale_and_crop
    from verydeep.survey import survey

what, data, out, images, epochs = sys.argv[1:4] + [int(word) for word in sys.argv[4:]]
train = verydeep.open_dataset(data, "train")
paths = [Path(str(photograph)) for photograph in train.photographs]
paths = paths[:: max(1, len(paths) // images)][:images]
recipe = dict(net="A", crop=96, width=0.125, fully_connected=512, initialisation="glorot", training_scale=(128,))

def reading():
    for path in paths:  # fill the file cache
        rescale_and_crop(path, 128, 96, (0.5, 0.5))
    started = time.perf_counter()
    for path in paths:
        rescale_and_crop(path, 128, 96, (0.5, 0.5))
    return (time.perf_counter() - started) / len(paths)

def surveying():
    started = time.perf_counter()
    survey(train)
    return (time.perf_counter() - started) / len(train)

def ending():
    few = verydeep.Dataset(train.name, train.classes, [np.full((128, 128, 3), 99, np.uint8)] * 2, np.array([0, 1]))
    started = None
    made = verydeep.Recipe(**recipe, batch=2, epochs=1)
    verydeep.train(few, made, out + "/warm", validation=few)
    started = time.perf_counter()
    verydeep.train(few, verydeep.Recipe(**recipe, batch=2, epochs=epochs), out + "/run", validation=few)
    return (time.perf_counter() - started) / epochs

def training():
    part = verydeep.Dataset(
        train.name, train.classes, [Path(str(each)) for each in train.photographs[:images]], train.labels[:images]
    )
    verydeep.train(part, verydeep.Recipe(**recipe, batch=64, epochs=2), out + "/run", validation=part)
    lines = (Path(out) / "run/log.jsonl").read_text().splitlines()
    return 1 / [json.loads(line) for line in lines if "images_per_second" in line][-1]["images_per_second"]

print(json.dumps({"reading": reading, "survey": surveying, "ending": ending, "training": training}[what]()))
"""
"""Prints the seconds per photograph read, surveyed or trained on, or per end of an epoch."""


def seconds(tree: Path, what: str, data: Path, images: int, epochs: int) -> float:
    """Measure the version in a source tree, in a new process with an empty cache, and return the seconds."""
    with tempfile.TemporaryDirectory() as out:
        environment = os.environ | {
            "PYTHONPATH": str(tree / "src"),
            "XDG_CACHE_HOME": out,
            "OMP_NUM_THREADS": "1",
        }
        if what != "training":  # the earlier version may not be built
            environment["VERYDEEP_ENGINE"] = "off"
        done = subprocess.run(
            [sys.executable, "-c", PROBE, what, str(data), out, str(images), str(epochs)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    if done.returncode:
        raise SystemExit(f"{tree}, {what}: {done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = options(__doc__, "safeguards")
    parser.add_argument("folder", type=Path, nargs="?", help="a data set, as for `verydeep train`")
    parser.add_argument("--earlier", type=Path, help="source tree of the earlier version [default: this one]")
    parser.add_argument("--rounds", type=int, help="[default: 7; 1 with --smoke]")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.smoke else 7)
    images, epochs = (4, 2) if arguments.smoke else (2000, 40)
    trees = {"earlier": arguments.earlier or ROOT, "now": ROOT}
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None and arguments.smoke:
            arguments.folder = Path(made)
            for place in ("train/a", "train/b", "val/a", "val/b"):
                write_photographs(arguments.folder / place, 2, 144, 144)
        if arguments.folder is None:
            parser.error("pass a data set")
        data = arguments.folder.absolute()
        total = sum(path.is_file() for path in (data / "train").rglob("*"))
        for _ in range(rounds):
            for what in ("reading", "survey", "ending"):
                for name, tree in trees.items():
                    taken = seconds(tree, what, data, images, epochs)
                    found.setdefault(what, {}).setdefault(name, []).append(taken)
            found.setdefault("training", {}).setdefault("now", []).append(
                seconds(ROOT, "training", data, images, epochs)
            )
    medians = {what: {name: statistics.median(each) for name, each in by.items()} for what, by in found.items()}
    epoch = total * medians["training"]["now"]
    reading = total * (medians["reading"]["now"] - medians["reading"]["earlier"])
    ending = medians["ending"]["now"] - medians["ending"]["earlier"]
    claim = Claim(
        f"extra time for reading {total:,} photographs and ending an epoch, compared with the earlier version, as "
        f"a share of an epoch of A at crop 96 and width 1/8 ({epoch:.1f} s)",
        round((reading + ending) / epoch, 4),
        "of an epoch",
        {"at most": MOST},
    )
    names = {
        "reading": "reading one photograph at S = 128, crop 96",
        "survey": "surveying one photograph, once per data set",
        "ending": "an epoch of one iteration of two images: validation, checkpoint, log",
    }
    observations = [
        Observation(
            f"{text}: time relative to the earlier version",
            round(medians[what]["now"] / medians[what]["earlier"], 3),
            "times",
        )
        for what, text in names.items()
    ]
    return record(destination(arguments), [claim], observations, details={"rounds": rounds, "seconds": medians})


if __name__ == "__main__":
    sys.exit(main())
