"""Sect. 4.1 to 4.4: test trained nets, alone and together, and keep what each pass found."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from verydeep.evaluation.posteriors import (
    PROTOCOLS,
    Pass,
    average,
    check_scales,
    one_pass,
    passes,
    protocol,
    test_scale,
)
from verydeep.files import cache_folder, digest
from verydeep.interop.loading import load, read_card
from verydeep.network import ConvNet


@dataclass(frozen=True)
class Result:
    """Errors of a net, or of several together, and how they were measured."""

    nets: tuple[str, ...]
    """Configuration of each net."""
    sources: tuple[str, ...]
    """Run or weight file of each net."""
    protocols: tuple[str, ...]
    """How each net was tested."""
    top1: Error
    top5: Error

    def __str__(self) -> str:
        protocols = " + ".join(dict.fromkeys(self.protocols))
        return f"{' + '.join(self.nets)}, {protocols}: top-1 error {self.top1}, top-5 error {self.top5}"


@dataclass(frozen=True, eq=False)
class Setup:
    """What all passes of a test share."""

    dataset: Dataset
    sizes: Integer[np.ndarray, "N 2"]
    """Width and height of the images."""
    ranks: Ranks
    computing: Computing
    say: Callable[[str], None] = lambda line: None
    """Is told what is not stored, what a score map leaves out and, with `say_found`, what was found stored."""
    say_found: bool = True

    @cached_property
    def data(self) -> str:
        """What identifies the images in the store."""
        return fingerprint(self.dataset)


@dataclass(frozen=True, eq=False)
class Tested:
    """A net that is tested: one in memory, or one in a file that is loaded when its turn comes."""

    source: str
    """What results call it: the run or weight file as it was given, or the configuration of a net in memory."""
    card: Card
    file: Path | None = None
    net: ConvNet | None = None

    @property
    def run(self) -> Path | None:
        """The run that it is of; None for a net in memory, or one that was given by its weight file."""
        return self.file.parent if self.file is not None and Path(self.source).is_dir() else None

    @property
    def folder(self) -> Path | None:
        """Where its passes are stored: in its run, else in the user's cache folder; those in memory are not."""
        folder = self.run or (cache_folder() if self.file is not None else None)
        return folder / "posteriors" if folder else None


def tested(net: nn.Module | str | os.PathLike[str]) -> Tested:
    """A net to test, by a run, a weight file, or itself.

    Raises:
        UserError: where it is none of these, or has no readable card.
    """
    if isinstance(net, str | os.PathLike):
        return Tested(os.fspath(net), read_card(net), weights.weight_file(net).resolve())
    inner = weights.convolutional_net(net)
    return Tested(inner.configuration.name, inner.card, net=inner)


def test(setup: Setup, nets: Sequence[Tested], scales: Sequence[int], method: str) -> tuple[Result, ...]:
    """Test each net, and the mean of all their posteriors where there are several (Sect. 4.4).

    Args:
        setup: on which images, and where.
        nets: from `tested`.
        scales: test scales Q in pixels; if empty, the default of each net (`test_scale`).
        method: dense, multi-crop, both, centre-crop or windows.

    Returns:
        A result a net, in order, and one of all together where there are several.

    Raises:
        UserError: for a net that is given twice, where a net's classes are not the data set's, and what loading
            and testing refuse.
    """
    for at, net in enumerate(nets):
        if any(net.net is other.net and net.file == other.file for other in nets[:at]):
            raise UserError(f"{net.source} is given twice; give each net once")
    for net in nets:  # all of them before hours of work on the first
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
        names = tuple(net.card.architecture.configuration for net in nets)
        results.append(_result(names, tuple(net.source for net in nets), protocols, together, setup.dataset))
    return tuple(results)


def _check(dataset: Dataset, net: Tested, scales: Sequence[int], method: str) -> None:
    """Refuse what a net cannot be tested on."""
    card, classes = net.card, net.card.architecture.classes
    if not classes:
        raise UserError(f"{net.source} is a feature net without fc6, fc7 and fc8; it has no class scores to test")
    if card.class_names is not None:
        compare_classes(dataset.classes, card.class_names, dataset.name, net.source)
    elif classes != len(dataset.classes):  # without names their number must do
        raise UserError(
            f"{dataset.name} has {len(dataset.classes)} classes, {net.source} has {classes} and does not name "
            "them; there must be as many"
        )
    scales = scales or (test_scale(card, method),)
    passes(method, scales)
    check_scales(scales, card.architecture.crop)


def kept_passes(setup: Setup, tested: Tested, planned: Sequence[Pass]) -> Iterator[Float32[np.ndarray, "N K"]]:
    """The matrix of each pass, found stored, or computed and stored; the net is loaded where one is computed.

    Raises:
        UserError: where the weights are replaced meanwhile, and what loading and testing refuse.
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
                raise UserError(f"{file} was replaced while it was read; start again")
        yield _computed(setup, net, one, path, tested.run)


def missing_passes(setup: Setup, tested: Tested, planned: Sequence[Pass]) -> tuple[Pass, ...]:
    """Those of these passes that are not stored; whether what is stored is whole, is not looked at."""
    weights_digest = digest(tested.file) if tested.file else ""
    files = {one: _stored_at(setup, tested, one, weights_digest) for one in planned}
    return tuple(one for one, file in files.items() if file is None or not file.exists())


def _stored_at(setup: Setup, tested: Tested, one: Pass, weights_digest: str) -> Path | None:
    """The file of a pass; None where none is kept."""
    if tested.folder is None:
        return None
    key = store.key(weights_digest, setup.data, one, setup.computing.precision)
    return tested.folder / f"{one.method}-Q{one.scale}-{key}.safetensors"


def _test_one(
    setup: Setup, tested: Tested, scales: Sequence[int], method: str
) -> tuple[Result, Float32[np.ndarray, "N K"]]:
    card = tested.card
    scales = tuple(scales) or (test_scale(card, method),)
    matrix = average(kept_passes(setup, tested, passes(method, scales, card.flip)))
    named = (protocol(method, scales, card.flip),)
    name = card.architecture.configuration
    return _result((name,), (tested.source,), named, matrix, setup.dataset), matrix


def _result(
    nets: tuple[str, ...],
    sources: tuple[str, ...],
    protocols: tuple[str, ...],
    matrix: Float32[np.ndarray, "N K"],
    dataset: Dataset,
) -> Result:
    top1, top5 = (top_error(matrix, dataset.labels, k) for k in (1, 5))
    return Result(nets, sources, protocols, top1, top5)


def _stored(setup: Setup, one: Pass, path: Path, classes: int) -> Float32[np.ndarray, "N K"] | None:
    """The matrix of a pass that was made before; None where none is stored."""
    dataset, ranks = setup.dataset, setup.ranks
    # The first rank reads and writes for all, which may be on machines without that file.
    there = store.matrix(path, len(dataset), classes) if ranks.first else None
    if not ranks.total(torch.tensor(float(there is not None))).item():
        return None
    found = np.zeros((len(dataset), classes), np.float32) if there is None else there
    if ranks.first and setup.say_found:
        setup.say(f"{one.method}, Q = {one.scale}: found stored in {path}")
    return ranks.total(torch.from_numpy(found)).cpu().numpy()


def _computed(
    setup: Setup, net: ConvNet, one: Pass, path: Path | None, run: Path | None
) -> Float32[np.ndarray, "N K"]:
    """The matrix of a pass, computed, and stored if there is a path; a run that was removed is not made anew."""
    ranks = setup.ranks
    if path is None:
        return one_pass(net, setup.dataset, one, ranks, setup.computing, setup.sizes)
    unfinished = path.with_suffix(f".{ranks.rank}-of-{ranks.world}.unfinished")
    matrix = one_pass(net, setup.dataset, one, ranks, setup.computing, setup.sizes, unfinished, run)
    if ranks.first:
        try:
            store.save(path, {"posteriors": matrix}, within=run)
        except UserError as error:  # which is no reason to lose the result
            setup.say(f"{one.method}, Q = {one.scale}: not stored: {error}")
    ranks.wait()  # until what is removed next is not needed any more
    for left in path.parent.glob(f"{path.stem}.*.unfinished"):  # of other numbers of ranks, too
        left.unlink(missing_ok=True)
    return matrix
