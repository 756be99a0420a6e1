"""Sources of labelled images: folders of photographs, the ILSVRC-2012 layout, handwritten digits.

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
"""Extensions of photographs, in upper or lower case."""

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
GROUND_TRUTH_FOLDERS = ("", "devkit", "devkit/data", "ILSVRC2012_devkit_t12/data")
DEVKIT_ORDER_FILES = ("synset_words_devkit_order.txt", "synsets.txt")
ILSVRC_CLASSES = 1000

Split = Literal["train", "val"]

OTHER_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "val": ("val", "validation", "valid", "dev", "eval", "test", "testing"),
}
"""Common names for the folders of the two splits, in upper or lower case. Only the first of each is accepted."""

DIGITS_TRAIN = 1437
"""How many of the 1797 digits, from the first on, are for training."""


class Example(NamedTuple):
    """A labelled photograph, decoded."""

    image: UInt8[np.ndarray, "h w 3"]
    """RGB in 0..255."""
    label: int
    """Its class, as an index into `Dataset.classes`."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled photographs, not opened yet.

    Raises:
        UserError: if photographs and labels differ in number, or a label is out of range.
    """

    name: str
    """Name for messages, such as "imagenette/train"."""
    classes: tuple[str, ...]
    """Class names, in the order of class scores."""
    photographs: Sequence[Photograph]
    """A tuple, or `Paths`."""
    labels: Int64[np.ndarray, " N"]
    """The class of each photograph, as an index into `classes`."""
    ignored: tuple[Path, ...] = ()
    """Files and folders next to the photographs that are left out because they are not photographs."""
    note: str = ""
    """A line for the user about how it was opened; usually empty."""

    def __post_init__(self) -> None:
        if len(self.photographs) != len(self.labels):
            raise UserError(
                f"{self.name}: {len(self.photographs)} photographs, but {len(self.labels)} labels; "
                "each photograph needs exactly one"
            )
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if wrong.size:
            raise UserError(
                f"{self.name}: label {self.labels[wrong[0]]} of photograph {wrong[0]} is not one of the "
                f"{len(self.classes)} classes; labels run from 0 to the number of classes minus 1"
            )

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Return a photograph, upright at full size, and its label, as a map-style data set of torch does.

        Raises:
            IndexError: if there is no such photograph.
            ImageError: if it cannot be read.
        """
        photograph = self.photographs[operator.index(index)]
        return Example(decode(photograph), int(self.labels[index]))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


# Opening


def open_dataset(data: str | Path, split: Split) -> Dataset:
    """List one split of a data set.

    `data` is one of

    - the string "digits": scikit-learn's handwritten digits, 8 x 8, which need no download. Training takes the
      first 1437, validation the last 360, without shuffling: the digits are ordered by writer, so validation has
      other writers. (A folder of that name is "./digits".)
    - a folder with `{train,val}/<class>/<image>`: the classes are the folder names of train, sorted by code point;
      val must have the same ones.
    - a folder in the layout of ILSVRC-2012: `train/<wnid>/<image>`, `val/<image>`, and the devkit's ground truth.
      The classes are the sorted wnids of train, not the devkit's ids, which are in another order.
    - a folder with `<class>/<image>` and neither train nor val: a fifth of each class is for validation. These
      images are drawn with a fixed seed and listed in `split.json` in that folder, if it is writable. From then on
      that file decides, and images added later are for training.

    Images are the files directly in their folder with the extensions .jpg, .jpeg, .png and .webp, in upper or
    lower case, sorted by name. Hidden files are skipped; everything else is left out and listed in `ignored`. val
    can be opened without train: the classes are then those of val, or of the devkit.

    Raises:
        UserError: if `split` is something else, the folder has none of these layouts, a class has no image in one
            of the splits, the classes of train and val differ, or the devkit's files or `split.json` are missing,
            damaged or contradict the images.
    """
    if split not in ("train", "val"):
        raise UserError(f"split is {split!r}; it must be 'train' or 'val'")
    if data == "digits":
        return _digits(split)
    if not isinstance(data, str | os.PathLike):
        raise UserError(f'data is of type {type(data).__name__}; pass the path of a folder, or "digits"')
    root = Path(data)
    if not is_folder(root):
        raise UserError(f'{root}: no such folder; {_layouts(root)}, or "digits"')
    name = f"{decoded(root.resolve().name)}/{split}"
    missing = [needed for needed in ("train", "val") if not os.path.isdir(root / needed)]
    if len(missing) == 2 and (whole := _list(root)) and _is_one_folder_of_classes(whole):
        return _part_of_one_folder(name, whole, split)
    if missing and (split, missing) != ("val", ["train"]):
        raise UserError(
            f"{root}: has no folder {missing[0]}; it contains {_found(root)}{_did_you_mean(root, missing)}; "
            f"{_layouts(root)}"
        )
    val = _list(root / "val")
    train = val if missing else _list(root / "train")
    if not (train.folders or missing):
        raise UserError(
            f"{root / 'train'}: has no class folders; it contains {_found(train.path)}; {_layouts(root)}"
        )
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
            f"{val.path}: has neither class folders nor images; it contains {_found(val.path)}; {_layouts(root)}"
        )
    return _of_class_folders(name, train if split == "train" else val)


def open_class_folders(folder: str | Path) -> Dataset:
    """List a folder with `<class>/<image>` as a whole, without splitting it; otherwise like `open_dataset`.

    Raises:
        UserError: if there is no such folder, it does not consist of class folders, or a class has no images.
    """
    root = Path(folder)
    if not is_folder(root):
        raise UserError(f"{root}: no such folder; pass a folder with {root}/<class>/*.jpg")
    whole = _list(root)
    if not _is_one_folder_of_classes(whole):
        raise UserError(
            f"{root}: is not a folder of class folders; it contains {_found(root)}; pass a folder with "
            f"{root}/<class>/*.jpg"
        )
    _refuse_empty_classes(whole)
    return _of_class_folders(decoded(root.resolve().name), whole)


def held_out(dataset: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Split a data set in two: the rest, and a held-out share of each class, at least one image.

    The same images are held out every time, whatever the seed of a training.

    Raises:
        UserError: if `share` is not in (0, 1), or a class has too few images for both parts.
    """
    if not 0 < share < 1:
        raise UserError(f"the share to hold out is {share}; it must be between 0 and 1")
    held = np.zeros(len(dataset), bool)
    for label, name in enumerate(dataset.classes):
        rows = np.flatnonzero(dataset.labels == label)
        count = max(1, round(share * len(rows)))
        if count >= len(rows):
            raise UserError(
                f"{dataset.name}: class {name} has too few images to hold some out ({len(rows)}): add images, or "
                "remove the class"
            )
        held[np.random.Generator(np.random.Philox(key=label)).choice(rows, count, replace=False)] = True
    return (
        _rows(dataset, f"{dataset.name}, {share:.0%} held out", np.flatnonzero(~held)),
        _rows(dataset, f"{share:.0%} of {dataset.name}", np.flatnonzero(held)),
    )


def selected(photographs: Sequence[Photograph], rows: Int64[np.ndarray, " M"]) -> Sequence[Photograph]:
    """Return some photographs, in the order of `rows`."""
    if isinstance(photographs, Paths):
        return photographs.take(rows)
    return tuple(photographs[row] for row in rows.tolist())


def images_below(path: Path) -> int:
    """Count the images in a folder and all folders below it, without hidden ones and links to folders."""
    count = 0
    for _, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += sum(not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS) for name in files)
    return count


def _rows(dataset: Dataset, name: str, rows: Int64[np.ndarray, " M"]) -> Dataset:
    return Dataset(name, dataset.classes, selected(dataset.photographs, rows), dataset.labels[rows])


def compare_classes(given: Sequence[str], stored: Sequence[str], given_name: str, stored_name: str) -> None:
    """Check that two lists of classes are the same, in the same order.

    Raises:
        UserError: if they are not, with both lengths and the first difference.
    """
    spelt = {unicodedata.normalize("NFC", name): name for name in stored}
    for name in given:
        same = spelt.get(unicodedata.normalize("NFC", name), name)
        if same != name and name not in stored:
            raise UserError(
                f'{given_name} has the class "{name}", which {stored_name} spells with different characters that '
                f"look the same: {name!a} and {same!a}; one has combining accents (NFD), the other precomposed "
                "letters (NFC): rename one of the two"
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
    """Return a key, 64 hexadecimal digits, under which to keep results computed from the photographs.

    It depends on their number and order, on the path, size and modification time of each file, and on the pixels
    of those in memory; not on labels or names. No file is opened.
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
    """The entries of a folder, sorted by name, without hidden ones."""

    path: Path
    folders: tuple[Path, ...]
    images: tuple[str, ...]
    """File names."""
    others: tuple[Path, ...]


def _list(path: Path) -> _Listing:
    folders: list[Path] = []
    images: list[str] = []
    others: list[Path] = []
    # Sorted by code point: the order of classes must not depend on the locale.
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
    except OSError:  # a link to itself, or to where access is denied
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    # A broken link counts, so that it is reported as an unreadable photograph.
    return entry.name.lower().endswith(IMAGE_EXTENSIONS) and not _is_folder(entry)


def _has_images(folder: Path) -> bool:
    return any(_is_image(entry) for entry in _entries(folder))


def _names(listing: _Listing) -> tuple[str, ...]:
    return tuple(decoded(folder.name) for folder in listing.folders)


def _refuse_empty_classes(listing: _Listing) -> None:
    for folder in listing.folders:
        if not _has_images(folder):
            raise UserError(
                f"{folder}: class {folder.name} has no images; every class folder of train and val needs some, "
                f"directly in it ({' '.join(IMAGE_EXTENSIONS)}): add images, or remove the class from both"
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
        f"pass a folder with {root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg, or with "
        f"{root}/<class>/*.jpg alone, or in the layout of ILSVRC-2012, with {root}/train/<wnid>/*.JPEG, "
        f"{root}/val/*.JPEG and {root}/devkit/data/{GROUND_TRUTH}"
    )


def _did_you_mean(root: Path, missing: Iterable[str]) -> str:
    """Return a hint at folders that are probably the missing ones under another name; empty if there are none."""
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
    """Whether a folder contains classes: two or more folders, some with images, none named like a split."""
    splits = {name for names in OTHER_NAMES.values() for name in names}
    return (
        len(whole.folders) > 1
        and not any(folder.name.lower() in splits for folder in whole.folders)
        and any(_has_images(folder) for folder in whole.folders)
    )


def _part_of_one_folder(name: str, whole: _Listing, split: Split) -> Dataset:
    """Return one split of a folder without splits, by its list of validation images; make the list if needed."""
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
            "it to split the images again"
        )
    note = f"{name}: {len(rows)} of {len(dataset)} images; "
    note += f"those for validation are listed in {file}" if file.is_file() else f"{file} cannot be written"
    return replace(_rows(dataset, name, rows), ignored=dataset.ignored, note=note)


def _below(root: Path, photograph: Photograph) -> str:
    """Return a photograph as `<class>/<name>`, as the list of validation images has it."""
    assert isinstance(photograph, Path)
    return photograph.relative_to(root).as_posix()


# ILSVRC-2012


def _ilsvrc_labels(
    root: Path, photographs: Sequence[Photograph], trained: tuple[str, ...] | None
) -> tuple[tuple[str, ...], Int64[np.ndarray, " N"]]:
    """Return the classes of train, or of the devkit without train, and the labels of flat validation images."""
    folders = [root / folder for folder in GROUND_TRUTH_FOLDERS]
    truth = next((folder / GROUND_TRUTH for folder in folders if os.path.isfile(folder / GROUND_TRUTH)), None)
    if truth is None:
        raise UserError(
            f"{root / 'val'}: has images without class folders, and {GROUND_TRUTH} is in none of "
            f"{', '.join(map(str, folders))}; unpack ILSVRC2012_devkit_t12.tar.gz in {root}, or move the "
            f"images into {root}/val/<class>/"
        )
    wnids = _devkit_wnids(truth.parent)
    known = set(wnids.values())
    classes = tuple(sorted(known)) if trained is None else trained
    for name in classes:
        if name not in known:
            raise UserError(
                f"{root / 'train' / name}: the devkit in {truth.parent} has no class {name}; remove the folder, "
                "or use the devkit that belongs to these images"
            )
    lines = _lines(truth)
    if len(lines) != len(photographs):
        raise UserError(
            f"{root / 'val'}: has {len(photographs)} images, but {truth} has {len(lines)} lines; it needs one "
            "line per image: complete whichever is incomplete"
        )
    positions = {name: position for position, name in enumerate(classes)}
    labels = np.empty(len(lines), np.int64)
    for index, line in enumerate(lines):
        wnid = wnids.get(int(line)) if line.isascii() and line.isdigit() else None
        if wnid is None:
            raise UserError(
                f'{truth}: line {index + 1} is "{line}"; each line must be one of the {len(wnids)} class ids of '
                f"the devkit in {truth.parent}: unpack the devkit again"
            )
        if wnid not in positions:
            raise UserError(
                f"{photographs[index]}: its class is {wnid} (id {line}), but train has no such folder; add "
                f"{root / 'train' / wnid}, or remove the image and its line {index + 1} of {truth}"
            )
        labels[index] = positions[wnid]
    missing = np.setdiff1d(np.arange(len(classes)), labels)
    if missing.size:
        raise UserError(
            f"{root / 'val'}: no image of class {classes[missing[0]]} according to {truth}; every class of "
            "train needs some: add images, or remove the class from train"
        )
    return classes, labels


def _devkit_wnids(folder: Path) -> dict[int, str]:
    """Return the devkit's map from id to wnid, from meta.mat or a text file of synsets in the devkit's order."""
    if os.path.isfile(folder / "meta.mat"):
        return _wnids_of_meta(folder / "meta.mat")
    for path in (folder / name for name in DEVKIT_ORDER_FILES):
        if os.path.isfile(path):
            wnids = [line.split()[0] for line in _lines(path)]
            # Caffe's file of the same name, synsets.txt, is sorted: nearly every label would silently be
            # wrong.
            if len(wnids) == ILSVRC_CLASSES and wnids == sorted(wnids):
                raise UserError(
                    f"{path}: lists the classes in sorted order, but must list them in the order of the devkit's "
                    "ids (the first is n02119789, kit fox); put the devkit's meta.mat next to it"
                )
            return dict(enumerate(wnids, start=1))
    raise UserError(
        f"{folder}: has {GROUND_TRUTH}, but no file that maps its ids to classes; put the devkit's meta.mat there "
        f"(or {' or '.join(DEVKIT_ORDER_FILES)}: one wnid per line, in the order of the ids)"
    )


def _wnids_of_meta(path: Path) -> dict[int, str]:
    import scipy.io

    try:
        synsets = np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)["synsets"])
        # Nodes with children are not classes of the challenge, but WordNet nodes above them.
        return {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets if synset["num_children"] == 0
        }
    except Exception as error:  # scipy raises anything on a damaged file, or one of another kind
        raise UserError(
            f"{path}: is not the devkit's list of synsets ({type(error).__name__}: {error}); unpack the "
            "devkit again"
        ) from error


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, stripped."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
