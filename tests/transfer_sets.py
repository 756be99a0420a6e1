"""Data sets and nets made for the tests of transfer."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from synthetic import touch
from verydeep.network import ConvNet
from verydeep.transfer.data import TransferData, single_labels

COLOURS = {"blue": (40, 60, 200), "green": (60, 180, 60), "red": (200, 50, 40)}


def net_of(name="A", seed=0, **sizes):
    """A small net with random weights, whose signals neither vanish nor explode."""
    torch.manual_seed(seed)
    net = ConvNet(name, **{"classes": 5, "crop": 32, "width": 1 / 16, "fully_connected": 16} | sizes)
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.0, (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.3)
    return net.eval()


def picture(colours, seed=0, height=36, width=44):
    """Stripes of some colours, with noise."""
    random = np.random.default_rng(seed)
    stripes = np.array([COLOURS[name] for name in colours] or [(128, 128, 128)])
    pixels = stripes[np.arange(width) * len(stripes) // width][None].repeat(height, 0)
    return np.clip(pixels + random.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)


def write_picture(path, colours, seed=0, **sizes):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(colours, seed, **sizes)).save(path, quality=95)
    return path


def caltech(root, images=8, classes=tuple(COLOURS)):
    """A folder of class folders, with photographs of several sizes."""
    for k, name in enumerate(classes):
        for number in range(images):
            write_picture(
                root / name / f"image_{number:04}.jpg", [name], 100 * k + number, width=40 + number % 2 * 8
            )
    return root


def memory(images=8, classes=tuple(COLOURS), parts=None):
    """The same in memory."""
    labels = np.repeat(np.arange(len(classes)), images)
    photographs = tuple(picture([classes[k]], 1000 + row) for row, k in enumerate(labels.tolist()))
    return TransferData(
        "memory", classes, photographs, single_labels(labels, len(classes)), "class-recall", parts or {}
    )


VOC = {
    "train": ["red", "green", "red blue", "blue", "green", "red", "blue", "green", "", "red green"],
    "val": ["red", "blue", "green", "red blue"],
    "test": ["red", "green", "blue", "red green", "", "blue", "red", "green"],
}
"""The classes of each photograph."""

DIFFICULT = {("test", 4, "red"), ("train", 8, "blue"), ("test", 5, "green")}
"""Part, number and class of objects that are difficult to recognise."""


def voc(root, parts=tuple(VOC)):
    """A folder in VOC's layout: photographs of two classes, of none, and with difficult objects."""
    for part in parts:
        for name in COLOURS:
            lines = []
            for number, classes in enumerate(VOC[part]):
                label = 1 if name in classes.split() else 0 if (part, number, name) in DIFFICULT else -1
                lines.append(f"{part}_{number:04} {label:2}")
            touch(root / "ImageSets" / "Main" / f"{name}_{part}.txt", "\n".join(lines) + "\n")
        for number, classes in enumerate(VOC[part]):
            seed = 50 * len(part) + number
            write_picture(root / "JPEGImages" / f"{part}_{number:04}.jpg", classes.split(), seed)
        touch(root / "ImageSets" / "Main" / f"{part}.txt", "")
    return root


def actions(root, photographs=6):
    """A folder in the layout of VOC's actions: two people in each photograph, in the left and the right half."""
    people = [("red", "green"), ("green", "blue"), ("blue", "red")]
    for part, count in (("train", photographs), ("val", 3)):
        lines = {name: [] for name in COLOURS}
        for number in range(count):
            left, right = people[number % 3]
            image = f"2011_{part}{number:03}"
            write_picture(
                root / "JPEGImages" / f"{image}.jpg", [left, right], 10 * number + len(part), height=40, width=80
            )
            objects = ["<object><name>dog</name><bndbox><xmin>1</xmin></bndbox></object>"]
            for person, colour in ((2, left), (3, right)):
                x = 1 if person == 2 else 41
                corners = f"<xmin>{x}</xmin><ymin>1</ymin><xmax>{x + 39}</xmax><ymax>40</ymax>"
                objects.append(f"<object><name>person</name><bndbox>{corners}</bndbox></object>")
                for name in COLOURS:
                    lines[name].append(f"{image} {person} {1 if name == colour else -1:2}")
            touch(root / "Annotations" / f"{image}.xml", f"<annotation>{''.join(objects)}</annotation>")
        for name, found in lines.items():
            touch(root / "ImageSets" / "Action" / f"{name}_{part}.txt", "\n".join(found) + "\n")
    return root
