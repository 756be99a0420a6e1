"""Open a data set for transfer, whatever its layout."""

import os
from pathlib import Path

import numpy as np

from verydeep.datasets.dataset import open_class_folders, open_dataset
from verydeep.errors import UserError
from verydeep.files import is_file, is_folder
from verydeep.photographs.photograph import Photograph
from verydeep.transfer.data import Part, TransferData, single_labels
from verydeep.transfer.table import read_table
from verydeep.transfer.voc import Task, is_voc, read_voc


def open_transfer_data(data: str | Path, task: Task = "classification") -> TransferData:
    """List the photographs of a data set, without opening them.

    Args:
        data: one of

            - a folder of PASCAL VOC, such as VOCdevkit/VOC2007 (`voc.read_voc`);
            - a CSV table (`table.read_table`);
            - a folder of class folders, `<class>/<image>`, as of Caltech-101: without an official split;
            - a data set of `verydeep train`, with train and val, or "digits": val is what is tested.

        task: for a VOC folder, whether to classify photographs or the actions of people.

    Raises:
        UserError: if there is no such data set, or a list, annotation or table is wrong.
    """
    if not isinstance(data, str | os.PathLike):
        raise UserError(f"data is of type {type(data).__name__}; pass the path of a folder or of a CSV table")
    root = Path(data)
    if data != "digits" and root.suffix.lower() == ".csv" and is_file(root):
        return read_table(root)
    if data != "digits" and is_folder(root) and is_voc(root):
        return read_voc(root, task)
    if task == "actions":
        raise UserError(f"{data}: actions need a folder of PASCAL VOC, such as VOCdevkit/VOC2012")
    if data != "digits" and is_folder(root) and not os.path.isdir(root / "train"):
        if years := sorted(path.name for path in root.glob("VOC*") if is_voc(path)):
            raise UserError(f"{root}: pass one of its folders, such as {root / years[0]}")
        whole = open_class_folders(root)
        labels = single_labels(whole.labels, len(whole.classes))
        return TransferData(whole.name, whole.classes, whole.photographs, labels, "class-recall")
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    photographs: list[Photograph] = [*train.photographs, *val.photographs]
    labels = single_labels(np.concatenate([train.labels, val.labels]), len(train.classes))
    name = train.name.removesuffix("/train")
    numbers = np.arange(len(photographs))
    parts: dict[Part, np.ndarray] = {"train": numbers[: len(train)], "val": numbers[len(train) :]}
    return TransferData(name, train.classes, photographs, labels, "class-recall", parts)
