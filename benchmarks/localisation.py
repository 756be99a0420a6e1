"""The localisation experiments on a small data set, in one command: classifiers, then Tables 8, 9 and 10.

    python benchmarks/localisation.py BOXES.csv VGG16_CONVOLUTIONS OUT --photographs FOLDER [--images FOLDER]

The authors' convolutions of net D get new fully connected layers at S = 128 and at S = 192, which learn the
classes: from the photographs of --images, if given, else from those with boxes. Box regressors start from these
two classifiers (`verydeep reproduce table8 table9 table10`). If the command is run again, everything is resumed.
"""

import argparse
from pathlib import Path

from verydeep import Recipe, procedures
from verydeep.experiments.localisation.reproduction import reproduce_boxes
from verydeep.localisation.data import Splits, open_boxes

SCALES = {256: 128, 384: 192}
"""The paper's S and that of a crop of 96."""

CLASSIFIERS: dict[str, object] = {
    "net": "D",
    "crop": 96,
    "fully_connected": 1024,
    "learns": ("fc6", "fc7", "fc8"),
    "batch": 64,
}
"""The recipe of results/fine-tuning."""

EPOCHS, FEW_EPOCHS = 3, 24
"""Of classifiers: for thousands of photographs, and for hundreds."""


def classifier(paper: int, splits: Splits, images: Path | None, convolutions: Path, out: Path) -> Path:
    """Train a classifier at a training scale, or resume it."""
    epochs = EPOCHS if images else FEW_EPOCHS
    recipe = Recipe(
        **CLASSIFIERS,
        start_from=str(convolutions),
        training_scale=(SCALES[paper],),
        epochs=epochs,
        drop_after=(max(1, 2 * epochs // 3),),
    )
    folder = out / f"classifier-{paper}"
    if images:
        return procedures.train(images, recipe, folder).path
    return procedures.train(splits.train.dataset, recipe, folder, validation=splits.val.dataset).path


def main() -> None:
    """Run the experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boxes", type=Path)
    parser.add_argument("convolutions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    splits = open_boxes(given.boxes, given.photographs)
    classifiers = {s: classifier(s, splits, given.images, given.convolutions, given.out) for s in SCALES}
    reproduce_boxes(
        splits, "imagenette", seeds=given.seeds, out=given.out, classifiers=[classifiers[s] for s in SCALES]
    )


if __name__ == "__main__":
    main()
