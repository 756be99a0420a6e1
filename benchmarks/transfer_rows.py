"""What `transfer.py` measures, each stored under the key of what it depends on: rows, and fine-tuned nets."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

import verydeep
from verydeep.datasets.dataset import selected
from verydeep.evaluation import store
from verydeep.transfer import Described, TransferData, TransferResult
from verydeep.transfer.measures import Judged
from verydeep.transfer.procedure import judged_on
from verydeep.transfer.splits import Split

MINIATURE_RATE = 0.005
"""Learning rate of fine-tuning a miniature: the one that it was trained with."""

CROP, FULLY_CONNECTED = 96, 1024
"""Crop and width of the new layers when a full-size net's convolutions are fine-tuned: what a CPU can do."""

_RESULT = TypeAdapter(TransferResult)


def row(
    found: Described, splits: Sequence[Split], training_images: int, folder: Path
) -> tuple[TransferResult, tuple[Judged, ...]]:
    """Train and test linear classifiers as `judged_on` does, or read what it has found before."""
    drawn = [each.tobytes() for split in splits for each in (split.train, split.test)]
    vectors = hashlib.sha256(found.vectors.tobytes()).hexdigest()
    key = store.key("row", vectors, found.protocol, found.sources, drawn, training_images)
    file = folder / "rows" / f"{key}.safetensors"
    there = store.load(file)
    if there is None:
        result, judged = judged_on(found, splits, training_images)
        arrays = {str(number): np.ascontiguousarray(each.scores) for number, each in enumerate(judged)}
        arrays["result"] = np.frombuffer(_RESULT.dump_json(result), np.uint8)
        store.save(file, arrays)
        return result, judged
    judged = tuple(
        Judged(split.test, there[str(number)], found.data.labels[split.test])
        for number, split in enumerate(splits)
    )
    return _RESULT.validate_json(there["result"].tobytes()), judged


def fine_tuned(path: str, data: TransferData, split: Split, epochs: int, runs: Path) -> Judged:
    """Fine-tune a net on the training images of a split, and judge its test images.

    All layers of a miniature are trained. The convolutions of a feature net first get new fully connected layers,
    which are trained alone; then all layers are, for half as many epochs.
    """
    own = data.labels.argmax(1).astype(np.int64)
    training, tested = (
        verydeep.Dataset(f"{data.name}/{name}", data.classes, selected(data.photographs, rows), own[rows])
        for name, rows in (("train", np.sort(split.train)), ("test", split.test))
    )
    architecture = verydeep.load(path).architecture
    name, folder = architecture.configuration, runs / Path(path).stem
    if architecture.classes:
        shared = _schedule(epochs) | {"learning_rate": MINIATURE_RATE}
        run = verydeep.train(
            training, verydeep.Recipe(net=name, start_from=path, **shared), folder, validation=tested
        )
    else:
        sizes = {"crop": CROP, "fully_connected": FULLY_CONNECTED, "learns": ("fc6", "fc7", "fc8")}
        first = verydeep.Recipe(net=name, start_from=path, **sizes, **_schedule(epochs))
        verydeep.train(training, first, folder / "new-layers", validation=tested)
        second = verydeep.Recipe(net=name, start_from=str(folder / "new-layers"), **_schedule(max(1, epochs // 2)))
        run = verydeep.train(training, second, folder / "all-layers", validation=tested)
    scores = verydeep.posteriors(verydeep.load(run), tested)
    return Judged(split.test, scores, data.labels[split.test])


def _schedule(epochs: int) -> dict[str, object]:
    drops = tuple(sorted({max(1, round(share * epochs)) for share in (0.6, 0.85)}))
    return {"batch": 64, "epochs": epochs, "drop_after": drops}
