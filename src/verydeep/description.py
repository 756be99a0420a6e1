"""What a net is, for people: the facts of its card, its file and its provenance, and a model card in Markdown.

`verydeep describe` prints the facts. A repository on the Hugging Face hub gets the model card as its README.md.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from verydeep import weights
from verydeep.card import PREPROCESSING, Card
from verydeep.configurations import STRIDE, configuration
from verydeep.errors import UserError, reason
from verydeep.evaluation.protocols import test_scale
from verydeep.files import digest
from verydeep.interop.loading import OWN, located, net_at, reader_of
from verydeep.printable import decoded, printable
from verydeep.procedures import Net
from verydeep.training.run import unfinished

TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
"""Types of tensors, by safetensors' names."""

USUAL_NAMES = {"A": "VGG-11", "B": "VGG-13", "D": "VGG-16", "E": "VGG-19"}

SHOWN_CLASSES = 5
"""Number of class names that are shown."""

LONGEST_NAME = 40
"""Characters of a class name that are shown."""

DEEPEST = 50
"""Levels of lists and objects in a provenance."""

LICENCES = (
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense", "wtfpl", "isc"),
    *("cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0"),
    *(
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "gpl-2.0",
        "gpl-3.0",
        "agpl-3.0",
    ),
)
"""Licences by the hub's names; others are `other` with a name of their own."""

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>()#|~&!$:"})

Facts = dict[str, tuple[str, ...]]
"""Lines of text by what they are about."""


@dataclass(frozen=True)
class WeightFile:
    """The file that a net is read from."""

    path: str
    format: str
    """Whose format it is."""
    type: str | None
    """Type of the stored weights; None for another system's file."""
    size: int
    """In bytes."""
    sha256: str


@dataclass(frozen=True)
class Description:
    """What a net is."""

    card: Card
    mean: tuple[float, float, float]
    """Mean colour, RGB in 0..255."""
    file: WeightFile | None
    """None for a net in memory."""
    unfinished: str = ""
    """How far its training has come, if its run has not ended: "epoch 5 of 74"."""

    @property
    def test_scales(self) -> dict[str, int]:
        """Default test scale Q by method, in pixels."""
        return {method: test_scale(self.card, method) for method in ("dense", "multi-crop")}

    @property
    def licence(self) -> str | None:
        """The licence in its provenance; None if that has none."""
        for provenance in _origins(self.card.provenance):
            for name in ("licence", "license"):
                if isinstance(found := provenance.get(name), str) and found.strip():
                    return found
        return None

    def facts(self) -> Facts:
        """Return what is known about the net, in words. Text from outside may not be printable."""
        card, made = self.card, self.card.architecture
        column = configuration(made.configuration)
        usual = f" ({USUAL_NAMES[column.name]})" if column.name in USUAL_NAMES else ""
        count = sum(layer.kind == "conv" for layer in made.layers)
        low, high = card.training_scale or (None, None)
        crop = f"{made.crop} x {made.crop}"
        smallest = made.crop if made.classes else STRIDE
        facts: Facts = {
            "net": (
                f"{column.name}{usual}, {count} weight layers"
                + ("" if made.classes else "; a feature net: convolutions only"),
            ),
            "Table 1": (_column(card),),
            "width": (f"{made.width:g}",),
            "parameters": (f"{made.parameters():,}",),
            "multiply-adds": (f"{made.multiply_adds():,} for one image of {crop} pixels",),
            "classes": (_classes(card),),
            "input": (f"{PREPROCESSING}; both sides at least {smallest}",),
            "mean colour": (", ".join(f"{value:.2f}" for value in self.mean),),
            "crop": (crop,),
            "training scale S": ("not known" if low is None else f"{low}" if low == high else f"{low} to {high}",),
            "mirror images": ("yes" if card.flip else "no",),
            "rescaling": (card.rescaling,),
            "test scale Q": (", ".join(f"{scale} ({method})" for method, scale in self.test_scales.items()),),
        }
        if self.unfinished:
            facts["training"] = (f"not ended: {self.unfinished}",)
        if self.file is not None:
            kind = "" if self.file.type is None else f", {self.file.type}"
            facts |= {
                "file": (self.file.path,),
                "format": (f"{self.file.format}{kind}, {self.file.size:,} bytes",),
                "SHA-256": (self.file.sha256,),
            }
        for depth, provenance in enumerate(_origins(card.provenance)):
            facts |= {f"{'origin: ' * depth}{name}": lines for name, lines in _provenance_facts(provenance)}
        return facts

    def data(self) -> dict[str, Any]:
        """Return the same as `facts`, as values for JSON."""
        made = self.card.architecture
        return {
            **asdict(self.card),
            "parameters": made.parameters(),
            "multiply_adds": made.multiply_adds(),
            "preprocessing": PREPROCESSING,
            "mean": list(self.mean),
            "test_scales": self.test_scales,
            "licence": self.licence,
            "unfinished": self.unfinished or None,
            "file": None if self.file is None else asdict(self.file),
        }

    def markdown(self, repository: str | None = None) -> str:
        """Return a model card for the Hugging Face hub: Markdown with metadata in YAML at its head.

        Args:
            repository: OWNER/NAME of the repository that it is for. The card then also says how to use it.
        """
        made = self.card.architecture
        title = repository or f"Net {made.configuration}"
        facts = self.facts()
        for name in ("file", "format", "SHA-256") if repository else ():  # of the file before it was pushed
            facts.pop(name, None)
        lines = [
            *("---", *_front_matter(self), "---", ""),
            *(f"# {_escaped(title)}", ""),
            f"Net {made.configuration} of *Very Deep Convolutional Networks for Large-Scale Image Recognition* "
            "(Simonyan and Zisserman, ICLR 2015, [arXiv:1409.1556](https://arxiv.org/abs/1409.1556)), in a weight "
            "file of verydeep.",
            *("", "| | |", "|---|---|"),
            *(f"| {_escaped(name)} | {'<br>'.join(map(_escaped, texts))} |" for name, texts in facts.items()),
        ]
        if repository:
            lines += ["", "## Use", "", *_usage(repository, made.classes)]
        return "\n".join(lines) + "\n"


def describe(source: Net) -> Description:
    """Describe a net.

    The parameters of this project's files are not loaded, but the files are read to check their digests. Other
    systems' files are loaded.

    Args:
        source: a run, a weight file, another system's file or a reference on the Hugging Face hub, as `load` takes
            them; or a `ConvNet`.

    Raises:
        UserError: if it is none of these, or cannot be read; also if the provenance is nested more than 50 levels
            deep.
    """
    if isinstance(source, nn.Module):
        net = weights.convolutional_net(source)
        return _checked(Description(net.card, _three(net.mean), None))
    there = located(source)
    path, reader = there.path, reader_of(there.path)
    if reader is None:
        card = weights.read_card(path)
        with safe_open(path, framework="pt") as file:
            weights.checked_names(path, file, card.architecture)
            mean, type_ = _three(file.get_tensor("mean")), TYPES[file.get_slice("conv1_1.weight").get_dtype()]
        format_ = OWN
    else:
        net = net_at(there)
        card, mean, type_, format_ = net.card, _three(net.mean), None, reader.what
    try:
        stored = WeightFile(decoded(str(path)), format_, type_, path.stat().st_size, digest(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    return _checked(Description(card, mean, stored, unfinished(Path(source))))


def _checked(found: Description) -> Description:
    """Return a description; refuse one with a provenance that cannot be shown."""
    level: list[Any] = [found.card.provenance]
    for _ in range(DEEPEST):
        lists = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in lists for value in values if isinstance(value, dict | list | tuple)]
        if not level:
            return found
    raise UserError(f"its provenance is nested more than {DEEPEST} levels deep, which verydeep never writes")


def _three(values: Tensor) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


def _column(card: Card) -> str:
    """Return a net's column of Table 1, with the channels that it has."""
    words = []
    for layer in card.architecture.layers:
        if layer.kind == "conv":
            words.append(
                f"FC-{layer.out_channels}" if layer.fully_connected else f"{layer.kernel}-{layer.out_channels}"
            )
        elif layer.kind in ("lrn", "pool"):
            words.append("LRN" if layer.kind == "lrn" else "|")
    return " ".join(words)


def _classes(card: Card) -> str:
    """Return the number of classes, and the first names."""
    count, names = card.architecture.classes, card.class_names
    if not count:
        return "none: it has features, but no class scores"
    if names is None:
        return f"{count:,}, without names"
    shown = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..." for name in names[:SHOWN_CLASSES]]
    return f"{count:,}: {', '.join(shown)}" + (", ..." if count > SHOWN_CLASSES else "")


def _origins(provenance: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a provenance, then that of the net it was made from, and so on."""
    current: Any = provenance
    while isinstance(current, dict):
        yield current
        current = current.get("origin")


def _provenance_facts(provenance: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every field of a provenance but its origin, in words."""
    left = {name: value for name, value in provenance.items() if name != "origin" or not isinstance(value, dict)}
    if "source" in left:
        kind = left.pop("format", None)
        yield "made from", (_text(left.pop("source")) + (f", {_text(kind)}" if kind is not None else ""),)
    if "sha256" in left:
        yield "SHA-256 of that file", (_text(left.pop("sha256")),)
    for name, label in (("folded", "folded"), ("dropped", "dropped layers")):
        if isinstance(value := left.pop(name, None), list | tuple):
            if value:
                yield label, tuple(map(_text, value)) if name == "folded" else (", ".join(map(_text, value)),)
        elif value is not None:
            yield label, (_text(value),)
    if "data" in left:
        images = left.pop("images", None)
        counted = f", {images:,} images" if isinstance(images, int) else ""
        yield "trained on", (_text(left.pop("data")) + counted,)
    if isinstance(error := left.get("validation_error"), float):
        del left["validation_error"]
        protocol = left.pop("validation_protocol", None)
        yield "validation error", (f"{error:.2%} (top-1)" + (f", {_text(protocol)}" if protocol else ""),)
    if "start" in left:
        start = left.pop("start")
        yield "started from", ("random weights" if start is None else f"weights with SHA-256 {_text(start)}",)
    recipe = left.pop("recipe", None)
    for name, value in left.items():
        yield name.replace("_", " "), (_text(value),)
    if recipe is not None:
        yield "recipe", (_text(recipe),)


def _text(value: Any) -> str:
    """Return a value of a provenance in words."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value}"


def _front_matter(found: Description) -> Iterator[str]:
    """Yield the lines of the metadata that the hub reads. JSON strings are also YAML strings."""
    yield "library_name: verydeep"
    yield f"pipeline_tag: image-{'classification' if found.card.architecture.classes else 'feature-extraction'}"
    if (licence := found.licence) is not None:
        known = licence.strip().lower()
        yield f"license: {known if known in LICENCES else 'other'}"
        if known not in LICENCES:
            yield f"license_name: {json.dumps(printable(licence), ensure_ascii=False)}"
    yield "tags:"
    yield "- vgg"
    yield "- image-classification"


def _usage(repository: str, classes: int) -> Iterator[str]:
    yield from ("```python", "import verydeep", "", f'net = verydeep.load("hf://{repository}")')
    yield "net(images)  # (N, K): class scores" if classes else 'net.features(images, ["conv3_3", "pool5"])'
    yield "```"
    yield ""
    yield from ("Images are RGB in 0..255, of shape (N, 3, H, W). On the command line:", "", "```sh")
    yield (
        f"verydeep predict hf://{repository} photograph.jpg"
        if classes
        else (f"verydeep features hf://{repository} photograph.jpg --layers pool5 -o features.safetensors")
    )
    yield "```"


def _escaped(text: str) -> str:
    """Return a text as it appears in Markdown, on one line."""
    return printable(text).translate(_SPECIAL)
