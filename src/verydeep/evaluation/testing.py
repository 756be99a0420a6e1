"""Sect. 4.1 to 4.4: testing trained nets, alone and together. The posteriors of each pass are stored."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Integer
from torch import nn

from verydeep import weights
from verydeep.card import Card
from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset, compare_classes, fingerprint
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation import store
from verydeep.evaluation.dense import left_out
from verydeep.evaluation.metrics import Error, top_error
from verydeep.evaluation.posteriors import average, one_pass
from verydeep.evaluation.protocols import PROTOCOLS, Pass, check_scales, passes, protocol, test_scale
from verydeep.files import cache_folder, digest
from verydeep.interop.loading import load, located, read_card
from verydeep.network import ConvNet


@dataclass(frozen=True)
class Result:
    """The errors of a net, or of several together, and how they were measured."""

    nets: tuple[str, ...]
    """The configuration of each net."""
    sources: tuple[str, ...]
    """The run or weight file of each net."""
    protocols: tuple[str, ...]
    """The test protocol of each net."""
    top1: Error
    top5: Error
    unfinished: tuple[str, ...] = ()
    """For each net, how far its training has come ("epoch 5 of 74"); empty if it has ended."""

    def __str__(self) -> str:
        protocols = " + ".join(dict.fromkeys(self.protocols))
        nets = self.marked(self.nets)
        return f"{' + '.join(nets)}, {protocols}: top-1 error {self.top1}, top-5 error {self.top5}"

    def marked(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return names, one per net, with a mark on nets whose training has not ended."""
        return tuple(
            f"{name} ({mark})" if mark else name
            for name, mark in zip_longest(names, self.unfinished[: len(names)], fillvalue="")
        )


@dataclass(frozen=True, eq=False)
class Setup:
    """Settings shared by all passes of a test."""

    dataset: Dataset
    sizes: Integer[np.ndarray, "N 2"]
    """Width and height of the images."""
    ranks: Ranks
    computing: Computing
    say: Callable[[str], None] = lambda line: None
    """Receives lines for the user: passes that could not be stored, and pixels that score maps leave out."""
    say_found: bool = True
    """Whether `say` also receives a line for each pass that was already stored."""

    @cached_property
    def data(self) -> str:
        """A fingerprint that identifies the images in the store."""
        return fingerprint(self.dataset)


@dataclass(frozen=True, eq=False)
class Tested:
    """A net to test: in memory, or in a file that is loaded when its turn comes."""

    source: str
    """Its name in results: the run or weight file as given, or the configuration of a net in memory."""
    card: Card
    file: Path | None = None
    net: ConvNet | None = None
    unfinished: str = ""
    """How far its training has come, if its run has not ended: "epoch 5 of 74"."""

    @property
    def run(self) -> Path | None:
        """Its run directory; None for a net in memory, or one that was given as a weight file."""
        return self.file.parent if self.file is not None and Path(self.source).is_dir() else None

    @property
    def folder(self) -> Path | None:
        """Where its passes are stored: in its run or the user's cache folder; None for a net in memory."""
        folder = self.run or (cache_folder() if self.file is not None else None)
        return folder / "posteriors" if folder else None


def tested(net: nn.Module | str | os.PathLike[str]) -> Tested:
    """Return a net to test, given as a run, a weight file or a module.

    Raises:
        UserError: if it is none of these, or its card cannot be read.
    """
    if isinstance(net, str | os.PathLike):
        return Tested(os.fspath(net), read_card(net), located(net).path.resolve())
    inner = weights.convolutional_net(net)
    return Tested(inner.configuration.name, inner.card, net=inner)


def test(setup: Setup, nets: Sequence[Tested], scales: Sequence[int], method: str) -> tuple[Result, ...]:
    """Test each net and, if there are several, the mean of their posteriors (Sect. 4.4).

    Args:
        setup: the images, and how to compute.
        nets: from `tested`.
        scales: test scales Q in pixels; if empty, the default of each net (`test_scale`).
        method: dense, multi-crop, both, centre-crop or windows.

    Returns:
        One result per net, in order, and if there are several nets, one for all of them together.

    Raises:
        UserError: if a net is given twice, its classes are not those of the data set, or it cannot be loaded or
            tested.
    """
    for at, net in enumerate(nets):
        if any(net.net is other.net and net.file == other.file for other in nets[:at]):
            raise UserError(f"{net.source} is given twice; give each net once")
    for net in nets:  # all of them, before hours of work on the first
        _check(setup.dataset, net, scales, method)
    used = {scale for net in nets for scale in scales or (test_scale(net.card, method),)}
    for line in filter(None, map(left_out, sorted(used) if "dense" in PROTOCOLS[method] else ())):
        if setup.ranks.first:
            setup.say(line)
    found = [_test_one(setup, net, scales, method) for net in nets]
    results = [result for result, _ in found]
    if len(found) > 1:
        together = average(matrix for _, matrix in found)
        protocols = tuple(result.protocols[0] for result in results)
        results.append(_result(nets, protocols, together, setup.dataset))
    return tuple(results)


def _check(dataset: Dataset, net: Tested, scales: Sequence[int], method: str) -> None:
    """Refuse a data set, scales or a method that a net cannot be tested with."""
    card, classes = net.card, net.card.architecture.classes
    if not classes:
        raise UserError(f"{net.source} is a feature net without fc6, fc7 and fc8; it has no class scores to test")
    if card.class_names is not None:
        compare_classes(dataset.classes, card.class_names, dataset.name, net.source)
    elif classes != len(dataset.classes):  # without names, only their number can be compared
        raise UserError(
            f"{dataset.name} has {len(dataset.classes)} classes, but {net.source} has {classes} (without names); "
            "the numbers must be equal"
        )
    scales = scales or (test_scale(card, method),)
    passes(method, scales)
    check_scales(scales, card.architecture.crop)


def kept_passes(setup: Setup, tested: Tested, planned: Sequence[Pass]) -> Iterator[Float32[np.ndarray, "N K"]]:
    """Generate the matrix of each pass: read it from the store, or compute and store it.

    The net is loaded only if a pass has to be computed.

    Raises:
        UserError: if the weights are replaced meanwhile, or the net cannot be loaded or tested.
    """
    file, net = tested.file, tested.net
    weights_digest = digest(file) if file else ""
    if file and tested.folder and setup.ranks.first:
        store.remove_leftovers(tested.folder, file if tested.run else None)
    for one in planned:
        path = _stored_at(setup, tested, one, weights_digest)
        if path and (matrix := _stored(setup, one, path, tested.card.architecture.classes)) is not None:
            yield matrix
            continue
        if net is None:
            net = load(tested.source)
            if file and digest(file) != weights_digest:
                raise UserError(f"{file} was replaced while it was being read; start again")
        yield _computed(setup, net, one, path, tested.run)


def missing_passes(setup: Setup, tested: Tested, planned: Sequence[Pass]) -> tuple[Pass, ...]:
    """Return the passes that are not stored. Stored files are not checked for damage."""
    weights_digest = digest(tested.file) if tested.file else ""
    files = {one: _stored_at(setup, tested, one, weights_digest) for one in planned}
    return tuple(one for one, file in files.items() if file is None or not file.exists())


def _stored_at(setup: Setup, tested: Tested, one: Pass, weights_digest: str) -> Path | None:
    """Return the file of a pass; None if the net's passes are not stored."""
    if tested.folder is None:
        return None
    kind = setup.ranks.device.type
    # Keys of earlier versions have no kind of device; they are those of a CPU.
    other = () if kind == "cpu" else (kind,)
    key = store.key(weights_digest, setup.data, one, setup.computing.precision, *other)
    return tested.folder / f"{one.method}-Q{one.scale}-{key}.safetensors"


def _test_one(
    setup: Setup, tested: Tested, scales: Sequence[int], method: str
) -> tuple[Result, Float32[np.ndarray, "N K"]]:
    card = tested.card
    scales = tuple(scales) or (test_scale(card, method),)
    matrix = average(kept_passes(setup, tested, passes(method, scales, card.flip)))
    named = (protocol(method, scales, card.flip),)
    return _result((tested,), named, matrix, setup.dataset), matrix


def _result(
    nets: Sequence[Tested], protocols: tuple[str, ...], matrix: Float32[np.ndarray, "N K"], dataset: Dataset
) -> Result:
    top1, top5 = (top_error(matrix, dataset.labels, k) for k in (1, 5))
    names = tuple(net.card.architecture.configuration for net in nets)
    marks = tuple(net.unfinished for net in nets)
    return Result(names, tuple(net.source for net in nets), protocols, top1, top5, marks)


def _stored(setup: Setup, one: Pass, path: Path, classes: int) -> Float32[np.ndarray, "N K"] | None:
    """Return the stored matrix of a pass; None if there is none."""
    dataset, ranks = setup.dataset, setup.ranks
    # The first rank reads and writes for all: the others may be on machines without that file.
    there = store.matrix(path, len(dataset), classes) if ranks.first else None
    if not ranks.total(torch.tensor(float(there is not None))).item():
        return None
    found = np.zeros((len(dataset), classes), np.float32) if there is None else there
    if ranks.first and setup.say_found:
        setup.say(f"{one.method}, Q = {one.scale}: already stored in {path}")
    return ranks.total(torch.from_numpy(found)).cpu().numpy()


def _computed(
    setup: Setup, net: ConvNet, one: Pass, path: Path | None, run: Path | None
) -> Float32[np.ndarray, "N K"]:
    """Compute a pass, and store its matrix if there is a path. A run that was removed is not created again."""
    ranks = setup.ranks
    if path is None:
        return one_pass(net, setup.dataset, one, ranks, setup.computing, setup.sizes)
    unfinished = path.with_suffix(f".{ranks.rank}-of-{ranks.world}.unfinished")
    matrix = one_pass(net, setup.dataset, one, ranks, setup.computing, setup.sizes, unfinished, run)
    if ranks.first:
        try:
            store.save(path, {"posteriors": matrix}, within=run)
        except UserError as error:  # no reason to lose the result
            setup.say(f"{one.method}, Q = {one.scale}: not stored: {error}")
    ranks.wait()  # until no rank needs the files that are removed next
    for left in path.parent.glob(f"{path.stem}.*.unfinished"):  # also those of other numbers of ranks
        left.unlink(missing_ok=True)
    return matrix
