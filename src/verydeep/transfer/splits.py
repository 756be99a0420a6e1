"""Appendix B: training and test photographs of each split, and the held-out fifth that chooses C."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int8, Int64

from verydeep.errors import UserError
from verydeep.transfer.data import TransferData

SPLITS, TRAINING_IMAGES, TEST_IMAGES = 3, 30, 50
"""The paper's protocol for Caltech-101: random splits; training images, and the most test images, per class."""

HELD_OUT = 0.2
"""Share of the training images on which C is chosen; also the share tested of data with neither split nor a single
class per photograph."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set."""

    number: int
    train: Int64[np.ndarray, " n"]
    """Examples to train on; those of a class in a random order."""
    test: Int64[np.ndarray, " m"]

    def fewer(self, data: TransferData, images: int) -> "Split":
        """Return the split with only the first training images of each class, and the same test images.

        Raises:
            UserError: if the photographs do not have one class each, or a class has fewer training images.
        """
        if not data.single:
            raise UserError(
                f"{data.name}: its photographs do not have exactly one class each, so a number of training images "
                "per class means nothing; leave it out"
            )
        if images < 1:
            raise UserError(f"training images per class: {images}; use at least 1")
        own = data.labels[self.train].argmax(1)
        chosen = []
        for number, name in enumerate(data.classes):
            rows = self.train[own == number]
            if len(rows) < images:
                raise UserError(
                    f"{data.name}: class {name} has {len(rows)} training images, fewer than {images}; use fewer "
                    "training images per class, or leave out the class"
                )
            chosen.append(rows[:images])
        return replace(self, train=np.concatenate(chosen))


def official_split(data: TransferData, seed: int = 0) -> Split | None:
    """Return the split that the data set comes with; None if it has none.

    If its test labels are known, train and val together are for training; otherwise only train is, and val is
    tested.

    Raises:
        UserError: if there is nothing to train or test on.
    """
    if not data.parts:
        return None
    parts = {name: rows for name, rows in data.parts.items() if len(rows)}
    tested = "test" if "test" in parts else "val"
    training = [rows for name, rows in parts.items() if name != tested]
    if tested not in parts or not training:
        raise UserError(
            f"{data.name}: its split has only {', '.join(parts) or 'nothing'}; it needs train and test"
        )
    train = np.concatenate(training)
    order = _generator(seed, 0).permutation(len(train))
    return _checked(data, Split(0, train[order], parts[tested]))


def random_splits(
    data: TransferData,
    splits: int = SPLITS,
    training_images: int = TRAINING_IMAGES,
    test_images: int | None = TEST_IMAGES,
    seed: int = 0,
) -> tuple[Split, ...]:
    """Return random splits: a number of training images of each class, and some of the others for testing.

    If the photographs do not have one class each, a fifth of them is tested and all the others are for training;
    the numbers of images are not used.

    Args:
        data: the data set.
        splits: how many.
        training_images: per class.
        test_images: the most test images per class; None for all the others.
        seed: of the draws. The draws of a class do not depend on the other classes.

    Raises:
        UserError: if a number is below 1, or a class has too few photographs.
    """
    if splits < 1 or training_images < 1 or (test_images is not None and test_images < 1):
        raise UserError(
            f"{splits} splits, {training_images} training images and {test_images} test images per class; use at "
            "least 1 of each"
        )
    if not data.single:
        return tuple(_of_several_classes(data, number, seed) for number in range(splits))
    own = data.labels.argmax(1)
    found = []
    for number in range(splits):
        train, test = [], []
        for at, name in enumerate(data.classes):
            rows = np.flatnonzero(own == at)
            if len(rows) <= training_images:
                raise UserError(
                    f"{data.name}: class {name} has {len(rows)} photographs; {training_images} for training and "
                    f"at least one for testing are needed: use at most {len(rows) - 1} training images per class, "
                    "or leave out the class"
                )
            order = _generator(seed, number, at).permutation(rows)
            train.append(order[:training_images])
            test.append(order[training_images:][:test_images])
        found.append(Split(number, np.concatenate(train), np.concatenate(test)))
    return tuple(found)


def held_out(
    labels: Int8[np.ndarray, "N K"], photographs: Sequence[Hashable], seed: int = 0
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """Return the training examples to keep, and the fifth to hold out, as positions.

    A fifth of each class is held out, at least one photograph if the class has two. A photograph of several
    classes counts for its rarest one. Examples of the same photograph stay together.

    Args:
        labels: of the training examples.
        photographs: the photograph of each example, or anything that is equal for examples of the same one.
        seed: of the draw.
    """
    first: dict[Hashable, int] = {}
    owner = np.array([first.setdefault(name, at) for at, name in enumerate(photographs)], np.int64)
    heads = np.array(sorted(first.values()), np.int64)
    positive = np.zeros((len(labels), labels.shape[1]), bool)
    np.logical_or.at(positive, owner, labels == 1)
    positive = positive[heads]
    rarity = np.argsort(np.argsort(positive.sum(0), kind="stable"), kind="stable")
    places = np.where(positive, rarity, len(rarity))
    strata = places.min(1)
    held = np.zeros(len(labels), bool)
    for stratum in np.unique(strata).tolist():
        rows = heads[strata == stratum]
        count = min(max(1, round(HELD_OUT * len(rows))), len(rows) - 1)
        held[_generator(seed, 1, stratum).permutation(rows)[:count]] = True
    held = held[owner]
    return np.flatnonzero(~held), np.flatnonzero(held)


def _of_several_classes(data: TransferData, number: int, seed: int) -> Split:
    train, test = held_out(data.labels, [str(each) for each in data.photographs], seed + number)
    return _checked(data, Split(number, train, test))


def _checked(data: TransferData, split: Split) -> Split:
    """Refuse a split without a training photograph of some class."""
    there = (data.labels[split.train] == 1).any(0)
    for at in np.flatnonzero(~there).tolist():
        raise UserError(f"{data.name}: class {data.classes[at]} has no training photographs; add some")
    return split


def _generator(*address: int) -> np.random.Generator:
    """Return the generator of an address: the seed and what is drawn."""
    key = np.array([address[0], 0], np.uint64)
    counter = np.zeros(4, np.uint64)
    counter[4 - len(address[1:]) :] = address[1:]
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
