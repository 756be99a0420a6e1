"""`verydeep weights`: published weights, and their download."""

from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Any

from cyclopts import Parameter

from verydeep.commands.arguments import Json
from verydeep.published.download import download as download_weights
from verydeep.published.download import place, present
from verydeep.published.registry import CLASS_ORDER, Entry, class_words, described, entry, registry
from verydeep.terminal import Cell, write_json, write_line, write_table


def weights(
    name: str | None = None,
    /,
    *,
    download: Annotated[bool, Parameter(negative=())] = False,
    source: Annotated[str | None, Parameter(name="--from", show_default=False)] = None,
    json_: Json = False,
) -> None:
    """List published weights, show one of them, or download it.

    `predict`, `test`, `features`, `map`, `convert` and `--start-from` take these names, too, and download what is
    not in the cache. A download resumes where it was interrupted, and its digest is checked.

    For example:

    - `verydeep weights` lists all.
    - `verydeep weights torchvision/vgg16` shows size, licence, errors and where each number comes from.
    - `verydeep weights torchvision/vgg16 --download` downloads the file.
    - `verydeep weights torchvision/vgg16 --from vgg16-397923af.pth` takes a file that you have.

    Args:
        name: published weights.
        download: download the file to the cache: ~/.cache/verydeep, or the folder that the environment variable
            VERYDEEP_CACHE names.
        source: a local file, or the URL of a mirror, instead of the publisher's address; implies --download.
    """
    if name is None:
        _list(json_)
        return
    of = entry(name)
    if download or source is not None:
        download_weights(name, source)
    if json_:
        write_json(_data(of))
    elif download or source is not None:
        write_line(f"{name}: {place(of)}")
    else:
        for heading, line in _lines(of):
            write_line(f"{heading:14} {line}")


def _list(json_: bool) -> None:
    if json_:
        write_json([_data(each) for each in registry().values()])
        return
    for publisher, group in groupby(registry().values(), lambda each: each.publisher):
        entries = list(group)
        first = entries[0]
        write_table(f"{publisher}: licence {first.licence}", map(_row, entries), numeric=["top-1", "top-5"])
        write_line(f"errors in percent, {first.protocol}")
        write_line("")


def _row(of: Entry) -> dict[str, Cell]:
    top1, top5 = of.error or ("-", "-")
    return {
        "name": of.name,
        "net": of.net + (", batch norm" if of.batch_norm else "") + ("" if of.classes else ", no head"),
        "MB": "-" if of.megabytes is None else str(of.megabytes),
        "top-1": f"{top1}",
        "top-5": f"{top5}",
        "in the cache": "yes" if place(of).is_file() else "no",
    }


def _data(of: Entry) -> dict[str, Any]:
    return described(of) | {"path": str(place(of)) if place(of).is_file() else None}


def _lines(of: Entry) -> Iterator[tuple[str, str]]:
    """Return what is known of an entry, line by line: a heading and text."""
    yield "name", of.name
    folded = ", with batch normalisation" if of.batch_norm else ""
    yield "net", f"{of.net}{folded}, {f'{of.classes} classes' if of.classes else 'convolutions alone'}"
    if of.note is not None:
        yield "note", of.note
    if of.weights_of is not None:
        yield "same weights", of.weights_of
    yield "file", f"{of.file_name}, {_size(of)}"
    yield "address", of.address
    yield "digest", f"{of.digest_words} (from: {of.hash_source})"
    yield "licence", f"{of.licence} (from: {of.licence_source})"
    yield "preprocessing", f"{of.preprocessing}; it is folded into the net, which takes raw RGB"
    if of.classes:
        wnid, words = next(iter(class_words().items()))
        yield "class order", f"{CLASS_ORDER}; the first is {wnid} ({words.partition(',')[0]})"
    if of.error is None:
        yield "error", "unknown" if of.classes else "none: there are no class scores"
    else:
        yield "error", f"{_errors(of.error)}; {of.protocol} (from: {of.errors_source})"
    for each in of.dense:
        scales = ", ".join(map(str, each.scales))
        yield "dense testing", f"should give {_errors(each.error)} at Q = {scales} (from: {each.source})"
    if of.classes and not of.dense:
        yield "dense testing", "unknown"
    yield "cache", f"{place(of)}{'' if present(of) else ' (not downloaded)'}"


def _errors(error: tuple[float, float]) -> str:
    return f"top-1 {error[0]:g}%, top-5 {error[1]:g}%"


def _size(of: Entry) -> str:
    if of.bytes is not None:
        return f"{of.bytes:,} bytes"
    return "size unknown" if of.megabytes is None else f"{of.megabytes} MB"
