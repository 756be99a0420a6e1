"""Where labelled images come from: folders of photographs, the ILSVRC-2012 layout, handwritten digits.

`open_dataset` lists a data set without opening any of its images.
"""

import hashlib
import operator
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int64, UInt8

from verydeep.datasets.paths import Paths
from verydeep.datasets.split import SPLIT_FILE, SPLIT_SHARE, read_split, write_split
from verydeep.errors import UserError, reason
from verydeep.files import is_folder
from verydeep.photographs.photograph import Photograph, decode
from verydeep.printable import decoded

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
"""What makes a file a photograph of its class, in any case."""

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
GROUND_TRUTH_FOLDERS = ("", "devkit", "devkit/data", "ILSVRC2012_devkit_t12/data")
DEVKIT_ORDER_FILES = ("synset_words_devkit_order.txt", "synsets.txt")
ILSVRC_CLASSES = 1000

Split = Literal["train", "val"]

OTHER_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "val": ("val", "validation", "valid", "dev", "eval", "test", "testing"),
}
"""What people call the folders of the two splits, in any case; a data set has them by the first of these names."""

DIGITS_TRAIN = 1437
"""How many of the 1797 digits are for training: the first ones."""


class Example(NamedTuple):
    """A labelled photograph, opened."""

    image: UInt8[np.ndarray, "h w 3"]
    """RGB in 0..255."""
    label: int
    """Its class, as a position in `Dataset.classes`."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled photographs, none of them opened yet.

    Raises:
        UserError: where photographs and labels differ in number, or a label names no class.
    """

    name: str
    """For messages: "imagenette/train"."""
    classes: tuple[str, ...]
    """In the order of class scores."""
    photographs: Sequence[Photograph]
    """A tuple, or `Paths`."""
    labels: Int64[np.ndarray, " N"]
    """The class of each photograph, as a position in `classes`."""
    ignored: tuple[Path, ...] = ()
    """Files and folders that lie where photographs do, but are none: left out, to be listed."""
    note: str = ""
    """A line about how it was opened that the user should see; mostly none."""

    def __post_init__(self) -> None:
        if len(self.photographs) != len(self.labels):
            raise UserError(
                f"{self.name}: {len(self.photographs)} photographs, but {len(self.labels)} labels; "
                "each photograph needs exactly one"
            )
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if wrong.size:
            raise UserError(
                f"{self.name}: label {self.labels[wrong[0]]} of photograph {wrong[0]} names none of the "
                f"{len(self.classes)} classes; labels are 0 to the number of classes - 1"
            )

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """The pixels of a photograph at full size, upright, and its label; as a map-style data set of torch.

        Raises:
            IndexError: beyond the last photograph.
            ImageError: where it cannot be read.
        """
        photograph = self.photographs[operator.index(index)]
        return Example(decode(photograph), int(self.labels[index]))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


# Opening


def open_dataset(data: str | Path, split: Split) -> Dataset:
    """List one split of a data set.

    `data` is one of

    - the string "digits": scikit-learn's handwritten digits, 8 x 8, which need no download. Training
      takes the first 1437, validation the last 360, without shuffling, since the digits are in the order
      of their writers: so validation shows other writers. (A folder of that name is "./digits".)
    - a folder with `{train,val}/<class>/<image>`: the classes are the folder names of train, sorted by
      code point; val must have the same ones.
    - a folder as ILSVRC-2012 comes: `train/<wnid>/<image>`, `val/<image>`, and the devkit's ground truth.
      The classes are the sorted wnids of train, not the devkit's ids, which are in another order.
    - a folder with `<class>/<image>` and neither train nor val: a fifth of each class is for validation. Which
      images these are is drawn with a fixed seed and written to `split.json` in that folder, if it can be
      written there; from then on that file decides, and images that are added are for training.

    Images are the files with the extensions .jpg, .jpeg, .png and .webp in any case that are directly in
    their folder, sorted by name. Hidden files do not count; all else is left out and put in `ignored`.
    To open val alone, train need not be there: the classes are then those of val, or of the devkit.

    Raises:
        UserError: for another split, where the folder has none of these layouts, where a class has no image in
            either split, where the classes of train and val differ, and where the devkit's files or `split.json`
            are missing, damaged or contradict the images.
    """
    if split not in ("train", "val"):
        raise UserError(f"split is {split!r}; it is 'train' or 'val'")
    if data == "digits":
        return _digits(split)
    if not isinstance(data, str | os.PathLike):
        raise UserError(f'data is of type {type(data).__name__}; give the path of a folder, or "digits"')
    root = Path(data)
    if not is_folder(root):
        raise UserError(f'{root}: there is no such folder; {_layouts(root)}, or "digits"')
    name = f"{decoded(root.resolve().name)}/{split}"
    missing = [needed for needed in ("train", "val") if not os.path.isdir(root / needed)]
    if len(missing) == 2 and (whole := _list(root)) and _is_one_folder_of_classes(whole):
        return _part_of_one_folder(name, whole, split)
    if missing and (split, missing) != ("val", ["train"]):
        raise UserError(
            f"{root}: has no folder {missing[0]} but {_found(root)}{_did_you_mean(root, missing)}; "
            f"{_layouts(root)}"
        )
    val = _list(root / "val")
    train = val if missing else _list(root / "train")
    if not (train.folders or missing):
        raise UserError(f"{root / 'train'}: holds no class folders but {_found(train.path)}; {_layouts(root)}")
    _refuse_empty_classes(train)
    if val.folders:
        compare_classes(_names(val), _names(train), str(val.path), str(train.path))
        _refuse_empty_classes(val)
    elif val.images:
        photographs = Paths.below(val.path, val.images)
        classes, labels = _ilsvrc_labels(root, photographs, None if missing else _names(train))
        if split == "val":
            return Dataset(name, classes, photographs, labels, val.others)
    else:
        raise UserError(
            f"{val.path}: holds neither class folders nor images but {_found(val.path)}; {_layouts(root)}"
        )
    return _of_class_folders(name, train if split == "train" else val)


def held_out(dataset: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Split a data set in two: what is left of it, and a share of each class, at least one image.

    The same images are held out every time, whatever seed a training has.

    Raises:
        UserError: for a share outside of (0, 1), and where a class has too few images for both.
    """
    if not 0 < share < 1:
        raise UserError(f"the share to hold out is {share}; give one between 0 and 1")
    held = np.zeros(len(dataset), bool)
    for label, name in enumerate(dataset.classes):
        rows = np.flatnonzero(dataset.labels == label)
        count = max(1, round(share * len(rows)))
        if count >= len(rows):
            raise UserError(f"{dataset.name}: class {name} has {len(rows)} images, too few to hold out some")
        held[np.random.Generator(np.random.Philox(key=label)).choice(rows, count, replace=False)] = True
    return (
        _rows(dataset, f"{dataset.name}, {share:.0%} held out", np.flatnonzero(~held)),
        _rows(dataset, f"{share:.0%} of {dataset.name}", np.flatnonzero(held)),
    )


def selected(photographs: Sequence[Photograph], rows: Int64[np.ndarray, " M"]) -> Sequence[Photograph]:
    """Some photographs, in the order of `rows`."""
    if isinstance(photographs, Paths):
        return photographs.take(rows)
    return tuple(photographs[row] for row in rows.tolist())


def images_below(path: Path) -> int:
    """How many images lie in a folder and in all folders below it, without hidden ones and links to folders."""
    count = 0
    for _, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += sum(not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS) for name in files)
    return count


def _rows(dataset: Dataset, name: str, rows: Int64[np.ndarray, " M"]) -> Dataset:
    return Dataset(name, dataset.classes, selected(dataset.photographs, rows), dataset.labels[rows])


def compare_classes(given: Sequence[str], stored: Sequence[str], given_name: str, stored_name: str) -> None:
    """Refuse two lists of classes unless they are the same classes in the same order.

    Raises:
        UserError: where they are not, with both lengths and what each has where they first differ.
    """
    spelt = {unicodedata.normalize("NFC", name): name for name in stored}
    for name in given:
        same = spelt.get(unicodedata.normalize("NFC", name), name)
        if same != name and name not in stored:
            raise UserError(
                f'{given_name} has the class "{name}", {stored_name} has it spelt with other characters that look '
                f"the same: {name!a} and {same!a}; an accent is a character of its own in one of them (NFD), but "
                "not in the other (NFC): rename one of the two"
            )
    for at, (one, other) in enumerate(zip_longest(given, stored)):
        if one != other:
            there, here = ("ends here" if name is None else f'has "{name}"' for name in (one, other))
            raise UserError(
                f"{given_name} has {len(given)} classes, {stored_name} has {len(stored)}; they first differ "
                f"at position {at} (counted from 0), where {given_name} {there} and {stored_name} {here}; "
                "both must have the same classes in the same order"
            )


def fingerprint(dataset: Dataset) -> str:
    """Return a key, 64 hexadecimal digits, under which to keep what was computed from the photographs.

    It changes with their number and order, with the path, the size and the time of change of each file, and
    with the pixels of those in memory; not with labels or names. No file is opened.
    """
    key = hashlib.sha256(b"verydeep photographs 1")
    for photograph in dataset.photographs:
        if isinstance(photograph, Path):
            path = os.path.abspath(photograph)
            key.update(b"\0path\0" + os.fsencode(path))
            try:
                found = os.stat(path)
                key.update(f"\0{found.st_size} {found.st_mtime_ns}".encode())
            except OSError:
                key.update(b"\0none")
        else:
            key.update(f"\0pixels\0{photograph.shape}".encode() + photograph.tobytes())
    return key.hexdigest()


def _digits(split: Split) -> Dataset:
    from sklearn.datasets import load_digits  # imported here: it takes a second, and folders do not need it

    digits = load_digits()
    part = slice(None, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
    levels = np.rint(digits.images[part] * (255 / 16)).astype(np.uint8)
    return Dataset(
        f"digits/{split}",
        tuple(str(name) for name in digits.target_names),
        tuple(np.repeat(levels[..., None], 3, axis=-1)),
        digits.target[part].astype(np.int64),
    )


class _Listing(NamedTuple):
    """What is directly in a folder, sorted by name, hidden entries left out."""

    path: Path
    folders: tuple[Path, ...]
    images: tuple[str, ...]
    """Their names."""
    others: tuple[Path, ...]


def _list(path: Path) -> _Listing:
    folders: list[Path] = []
    images: list[str] = []
    others: list[Path] = []
    # Sorted by code point: the order of classes must not depend on the locale of whoever trains or tests.
    for entry in sorted(_entries(path), key=lambda entry: entry.name):
        if _is_folder(entry):
            folders.append(path / entry.name)
        elif _is_image(entry):
            images.append(entry.name)
        else:
            others.append(path / entry.name)
    return _Listing(path, tuple(folders), tuple(images), tuple(others))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from (entry for entry in found if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {reason(error)}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or where nobody may look
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    # A broken link counts: it is then reported as an unreadable photograph rather than not at all.
    return entry.name.lower().endswith(IMAGE_EXTENSIONS) and not _is_folder(entry)


def _has_images(folder: Path) -> bool:
    return any(_is_image(entry) for entry in _entries(folder))


def _names(listing: _Listing) -> tuple[str, ...]:
    return tuple(decoded(folder.name) for folder in listing.folders)


def _refuse_empty_classes(listing: _Listing) -> None:
    for folder in listing.folders:
        if not _has_images(folder):
            raise UserError(
                f"{folder}: class {folder.name} holds no image; every class folder of train and val needs "
                f"some, directly in it ({' '.join(IMAGE_EXTENSIONS)}): add them, or remove the class from both"
            )


def _of_class_folders(name: str, listing: _Listing) -> Dataset:
    ignored = [*listing.others, *(listing.path / image for image in listing.images)]
    counts = []

    def images() -> Iterator[str]:
        for folder in listing.folders:
            inside = _list(folder)
            ignored.extend(sorted((*inside.folders, *inside.others)))
            counts.append(len(inside.images))
            yield from (f"{folder.name}/{image}" for image in inside.images)

    photographs = Paths.below(listing.path, images())
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return Dataset(name, _names(listing), photographs, labels, tuple(ignored))


def _layouts(root: Path) -> str:
    return (
        f"give a folder with {root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg, or only with "
        f"{root}/<class>/*.jpg, or as ILSVRC-2012 comes, with {root}/train/<wnid>/*.JPEG, {root}/val/*.JPEG and "
        f"{root}/devkit/data/{GROUND_TRUTH}"
    )


def _did_you_mean(root: Path, missing: Iterable[str]) -> str:
    """Folders of which people mean the missing ones, and how to name them so; empty where there are none."""
    there = {entry.name.lower(): entry.name for entry in _entries(root) if _is_folder(entry)}
    hints = []
    for needed, names in OTHER_NAMES.items():
        found = next((there[name] for name in names if name in there), None)
        if needed in missing and found:
            hints.append(f"{found}? Rename it to {needed}")
    return f" (did you mean {'; '.join(hints)})" if hints else ""


def _found(folder: Path, most: int = 6) -> str:
    names = sorted(entry.name + "/" * _is_folder(entry) for entry in _entries(folder))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "nothing"


# One folder of class folders


def _is_one_folder_of_classes(whole: _Listing) -> bool:
    """Whether a folder holds classes: two folders or more, with images, none of which is called like a split."""
    splits = {name for names in OTHER_NAMES.values() for name in names}
    return (
        len(whole.folders) > 1
        and not any(folder.name.lower() in splits for folder in whole.folders)
        and any(_has_images(folder) for folder in whole.folders)
    )


def _part_of_one_folder(name: str, whole: _Listing, split: Split) -> Dataset:
    """One split of a folder without splits, by its list of validation images; if there is none, it is made."""
    _refuse_empty_classes(whole)
    file = whole.path / SPLIT_FILE
    others = tuple(path for path in whole.others if path != file)
    dataset = _of_class_folders(name, whole._replace(others=others))
    names = [_below(whole.path, photograph) for photograph in dataset.photographs]
    if (listed := read_split(file)) is None:
        held = held_out(dataset, SPLIT_SHARE)[1]
        listed = frozenset(_below(whole.path, photograph) for photograph in held.photographs)
        write_split(file, listed)
    chosen = np.array([(name in listed) == (split == "val") for name in names], bool)
    rows = np.flatnonzero(chosen)
    without = np.setdiff1d(np.arange(len(dataset.classes)), dataset.labels[rows])
    if without.size:
        raise UserError(
            f"{file}: leaves no image of class {dataset.classes[without[0]]} for {split}; correct it, or remove "
            "it to have the images split anew"
        )
    note = f"{name}: {len(rows)} of {len(dataset)} images; "
    note += f"those for validation are listed in {file}" if file.is_file() else f"{file} cannot be written"
    return replace(_rows(dataset, name, rows), ignored=dataset.ignored, note=note)


def _below(root: Path, photograph: Photograph) -> str:
    """A photograph's class and name, as the list of validation images has it."""
    assert isinstance(photograph, Path)
    return photograph.relative_to(root).as_posix()


# ILSVRC-2012


def _ilsvrc_labels(
    root: Path, photographs: Sequence[Photograph], trained: tuple[str, ...] | None
) -> tuple[tuple[str, ...], Int64[np.ndarray, " N"]]:
    """Classes of train, or all of the devkit where there is no train; and labels of the flat validation images."""
    folders = [root / folder for folder in GROUND_TRUTH_FOLDERS]
    truth = next((folder / GROUND_TRUTH for folder in folders if os.path.isfile(folder / GROUND_TRUTH)), None)
    if truth is None:
        raise UserError(
            f"{root / 'val'}: holds images without class folders, and {GROUND_TRUTH} is in none of "
            f"{', '.join(map(str, folders))}; unpack ILSVRC2012_devkit_t12.tar.gz in {root}, or move the "
            f"images into {root}/val/<class>/"
        )
    wnids = _devkit_wnids(truth.parent)
    known = set(wnids.values())
    classes = tuple(sorted(known)) if trained is None else trained
    for name in classes:
        if name not in known:
            raise UserError(
                f"{root / 'train' / name}: the devkit in {truth.parent} knows no class {name}; remove the "
                "folder, or use the devkit that belongs to these images"
            )
    lines = _lines(truth)
    if len(lines) != len(photographs):
        raise UserError(
            f"{root / 'val'}: holds {len(photographs)} images, but {truth} has {len(lines)} lines; there must "
            "be one line for each image: complete whichever is not whole"
        )
    positions = {name: position for position, name in enumerate(classes)}
    labels = np.empty(len(lines), np.int64)
    for index, line in enumerate(lines):
        wnid = wnids.get(int(line)) if line.isascii() and line.isdigit() else None
        if wnid is None:
            raise UserError(
                f'{truth}: line {index + 1} is "{line}"; each line must be one of the {len(wnids)} ids that '
                f"the devkit in {truth.parent} gives to classes: unpack the devkit anew"
            )
        if wnid not in positions:
            raise UserError(
                f"{photographs[index]}: val says class {wnid} (id {line}), train has no such folder; add "
                f"{root / 'train' / wnid}, or remove the image and its line {index + 1} of {truth}"
            )
        labels[index] = positions[wnid]
    missing = np.setdiff1d(np.arange(len(classes)), labels)
    if missing.size:
        raise UserError(
            f"{root / 'val'}: no image of class {classes[missing[0]]} according to {truth}; every class of "
            "train needs some: add them, or remove the class from train"
        )
    return classes, labels


def _devkit_wnids(folder: Path) -> dict[int, str]:
    """The devkit's id -> wnid, from meta.mat or else from a text file of synsets in the devkit's order."""
    if os.path.isfile(folder / "meta.mat"):
        return _wnids_of_meta(folder / "meta.mat")
    for path in (folder / name for name in DEVKIT_ORDER_FILES):
        if os.path.isfile(path):
            wnids = [line.split()[0] for line in _lines(path)]
            # Caffe's file of the same name, synsets.txt, has the sorted order: nearly every label would be
            # wrong without a sign of it.
            if len(wnids) == ILSVRC_CLASSES and wnids == sorted(wnids):
                raise UserError(
                    f"{path}: lists the classes in sorted order, but must list them in the order of the "
                    "devkit's ids (the first is n02119789, kit fox); put the devkit's meta.mat beside it"
                )
            return dict(enumerate(wnids, start=1))
    raise UserError(
        f"{folder}: has {GROUND_TRUTH} but nothing that says which classes its ids are; put the devkit's "
        f"meta.mat there (or {' or '.join(DEVKIT_ORDER_FILES)}: one wnid a line, in the order of the ids)"
    )


def _wnids_of_meta(path: Path) -> dict[int, str]:
    import scipy.io

    try:
        synsets = np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)["synsets"])
        # Nodes with children are not classes of the challenge, but inner nodes of WordNet above them.
        return {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets if synset["num_children"] == 0
        }
    except Exception as error:  # whatever scipy meets in a damaged or foreign file
        raise UserError(
            f"{path}: is not the devkit's list of synsets ({type(error).__name__}: {error}); unpack the "
            "devkit anew"
        ) from error


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without the spaces around them."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
