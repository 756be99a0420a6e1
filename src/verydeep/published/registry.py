"""The registry: which weights others have published, where, under which licence, and what they achieve.

`weights.toml` holds it as data, `classes.txt` the order of the class scores. Reading them touches no network.
"""

import difflib
import tomllib
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from verydeep.errors import UserError
from verydeep.files import digest

CLASS_ORDER = "the 1000 classes of ILSVRC-2012, sorted by WordNet id"

_STRICT = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class DenseError:
    """The error that dense testing should give (Sect. 3.2), in percent on the validation set of ILSVRC-2012."""

    scales: tuple[int, ...]
    """Test scales Q in pixels, whose posteriors are averaged."""
    error: tuple[float, float]
    """Top-1 and top-5 error."""
    source: str


@dataclass(frozen=True, config=_STRICT)
class Entry:
    """A published file of weights. None, or an empty tuple, means that no source states it."""

    name: str
    """Publisher and net: torchvision/vgg16."""
    net: str
    """Configuration of Table 1."""
    address: str
    """URL of the file."""
    algorithm: Literal["sha256", "md5"]
    hash: str
    """Digest of the file, in hexadecimal digits; of SHA-256 perhaps only the beginning."""
    hash_source: str
    licence: str
    licence_source: str
    preprocessing: str
    """The preprocessing that the file's net expects, by its name in `interop.conventions.CONVENTIONS`."""
    batch_norm: bool = False
    """Whether the file has batch normalisation, which is folded into the convolutions."""
    classes: int = 1000
    """Number of classes, in the order of `class_names`; 0 for convolutions alone."""
    bytes: int | None = None
    """Exact size of the file."""
    megabytes: int | None = None
    """Size of the file, rounded to 10^6 bytes."""
    error: tuple[float, float] | None = None
    """Top-1 and top-5 error as published, in percent on the validation set of ILSVRC-2012."""
    protocol: str | None = None
    """How `error` was measured."""
    errors_source: str | None = None
    dense: tuple[DenseError, ...] = ()
    weights_of: str | None = None
    """Another entry with the same weights in another format."""
    note: str | None = None

    @property
    def publisher(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return self.address.rpartition("/")[2]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """WordNet ids in the order of the class scores; None for convolutions alone."""
        return tuple(class_words()) if self.classes else None

    @property
    def digest_words(self) -> str:
        """The digest in words: "SHA-256 397923af...", with dots if only its beginning is known."""
        known = self.hash if len(self.hash) == _DIGITS[self.algorithm] else f"{self.hash}..."
        return f"{_ALGORITHMS[self.algorithm]} {known}"

    def provenance(self) -> dict[str, str]:
        """Return what a net's card records of this entry."""
        return {"published": self.name, "licence": self.licence, "address": self.address}


_DIGITS = {"sha256": 64, "md5": 32}
_ALGORITHMS = {"sha256": "SHA-256", "md5": "MD5"}
_ENTRIES = TypeAdapter(tuple[Entry, ...])


@cache
def registry() -> dict[str, Entry]:
    """Return all entries by name, in the order of the file."""
    entries = _ENTRIES.validate_python(list(_merged(tomllib.loads(_text("weights.toml")))))
    return {each.name: each for each in entries}


def _merged(publishers: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the fields of each entry: its own, and those of its publisher that it does not have."""
    found: dict[str, dict[str, Any]] = {}
    for publisher, table in publishers.items():
        shared = {key: value for key, value in table.items() if not isinstance(value, dict)}
        for net, own in table.items():
            if not isinstance(own, dict):
                continue
            fields = shared | own
            place = {key: fields.pop(key) for key in ("file", "revision") if key in fields}
            for algorithm in _ALGORITHMS.keys() & fields.keys():
                fields |= {"algorithm": algorithm, "hash": fields.pop(algorithm)}
            if "bytes" in fields:
                fields["megabytes"] = round(fields["bytes"] / 1e6)
            if "error" not in fields:
                fields = {key: value for key, value in fields.items() if key not in ("protocol", "errors_source")}
            if "weights_of" in fields:
                fields["dense"] = found[fields["weights_of"]]["dense"]
            name = f"{publisher}/{net}"
            found[name] = fields | {"name": name, "address": fields["address"].format(**place)}
    return list(found.values())


@cache
def class_words() -> dict[str, str]:
    """Return the names of the classes of ILSVRC-2012 by WordNet id, in the order of the class scores."""
    lines = (line.partition(" ") for line in _text("classes.txt").splitlines())
    return {wnid: words for wnid, _, words in lines}


def with_words(name: str) -> str:
    """Return the name of a class for people: a WordNet id of ILSVRC-2012 with its words, another name as it is."""
    words = class_words().get(name)
    return name if words is None else f"{name} ({words})"


def _text(file: str) -> str:
    return resources.files("verydeep.published").joinpath(file).read_text(encoding="utf-8")


def entry(name: str) -> Entry:
    """Return the entry with a name.

    Raises:
        UserError: if there is none; the message lists similar names.
    """
    if (found := registry().get(name)) is not None:
        return found
    raise UserError(
        f"no published weights are called {name}; {similar(name) or 'verydeep weights lists them all'}"
    )


def similar(name: str) -> str:
    """Return "did you mean ...?" with the names of the registry that are most like a word; empty if none is."""
    near = [each for each in registry() if each.partition("/")[2] == name.lower()]
    near = near or difflib.get_close_matches(name.lower(), registry(), n=4, cutoff=0.7)
    return f"did you mean {' or '.join(near)}?" if near else ""


def matches(path: Path, of: Entry) -> bool:
    """Return whether a file is the one of an entry, by size and digest.

    Raises:
        OSError: if it cannot be read.
    """
    return of.bytes in (None, path.stat().st_size) and digest(path, of.algorithm).startswith(of.hash)


def recognised(path: Path, sha256: str) -> Entry | None:
    """Return the entry whose file this is; None if it is none of them.

    Args:
        path: the file.
        sha256: its SHA-256.

    Raises:
        OSError: if it cannot be read.
    """
    size = path.stat().st_size
    for each in registry().values():
        if each.bytes not in (None, size):
            continue
        if each.megabytes is None and path.suffix != Path(each.file_name).suffix:
            continue  # without a size, its digest would be computed for every file
        if each.megabytes is not None and abs(size / 1e6 - each.megabytes) > 1:
            continue
        if sha256.startswith(each.hash) if each.algorithm == "sha256" else matches(path, each):
            return each
    return None


def described(of: Entry) -> dict[str, Any]:
    """Return an entry as data for JSON."""
    return asdict(of) | {"class_order": CLASS_ORDER if of.classes else None}
