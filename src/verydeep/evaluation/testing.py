"""Sect. 4.1 to 4.4: test trained nets, alone and together, and keep what each pass found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Integer

from verydeep import weights
from verydeep.datasets import Dataset, compare_classes, fingerprint
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation import store
from verydeep.evaluation.dense import left_out
from verydeep.evaluation.metrics import Error, top_error
from verydeep.evaluation.posteriors import (
    PROTOCOLS,
    Computing,
    Pass,
    average,
    check_scales,
    one_pass,
    passes,
    protocol,
)
from verydeep.files import cache_folder
from verydeep.network import ConvNet
from verydeep.recipe import PAPER_SCALE, scaled
from verydeep.weights import Card


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


@dataclass(frozen=True, eq=False)
class Setup:
    """What all passes of a test share."""

    dataset: Dataset
    sizes: Integer[np.ndarray, "N 2"]
    """Width and height of the images."""
    ranks: Ranks
    computing: Computing
    say: Callable[[str], None] = lambda line: None
    """Is told what was found stored, what could not be stored, and what a score map leaves out."""


def test(setup: Setup, sources: Sequence[str], scales: Sequence[int], method: str) -> tuple[Result, ...]:
    """Test each net, and the mean of all their posteriors where there are several (Sect. 4.4).

    Args:
        setup: on which images, and where.
        sources: runs or weight files.
        scales: test scales Q in pixels; where empty, each net's own by the rule of Sect. 4.1.
        method: dense, multi-crop, both or centre-crop.

    Returns:
        A result a net, in order, and one of all together where there are several.

    Raises:
        UserError: for a net that is given twice, where a net's classes are not the data set's, and what loading
            and testing refuse.
    """
    files = [weights.weight_file(source).resolve() for source in sources]
    if twice := next((source for at, source in enumerate(sources) if files[at] in files[:at]), None):
        raise UserError(f"{twice} is given twice; give each net once")
    cards = [weights.read_card(source) for source in sources]
    for source, card in zip(sources, cards, strict=True):  # all of them before hours of work on the first
        _check(setup.dataset, source, card, scales, method)
    tested = {scale for card in cards for scale in scales or (test_scale(card),)}
    for line in filter(None, map(left_out, sorted(tested) if "dense" in PROTOCOLS[method] else ())):
        if setup.ranks.first:
            setup.say(line)
    found = [_test_one(setup, source, card, scales, method) for source, card in zip(sources, cards, strict=True)]
    results = [result for result, _ in found]
    if len(found) > 1:
        together = average(matrix for _, matrix in found)
        protocols = tuple(result.protocols[0] for result in results)
        nets = tuple(card.configuration for card in cards)
        results.append(_result(nets, tuple(sources), protocols, together, setup.dataset))
    return tuple(results)


def test_scale(card: Card) -> int:
    """Q for a net where none is given: S, or 0.5 (Smin + Smax) (Sect. 4.1), in pixels.

    A net whose training scale is not known is taken for one of S = 256 crop / 224.
    """
    return middle(*(card.training_scale or (scaled(PAPER_SCALE, card.crop),) * 2))


def middle(low: int, high: int) -> int:
    """0.5 (Smin + Smax), in whole pixels."""
    return (low + high) // 2


def _check(dataset: Dataset, source: str, card: Card, scales: Sequence[int], method: str) -> None:
    """Refuse what a net cannot be tested on."""
    if card.class_names is not None:
        compare_classes(dataset.classes, card.class_names, dataset.name, source)
    elif card.classes != len(dataset.classes):  # without names their number must do
        raise UserError(
            f"{dataset.name} has {len(dataset.classes)} classes, {source} has {card.classes} and does not name "
            "them; there must be as many"
        )
    scales = scales or (test_scale(card),)
    passes(method, scales)
    check_scales(scales, card.crop)


def _test_one(
    setup: Setup, source: str, card: Card, scales: Sequence[int], method: str
) -> tuple[Result, Float32[np.ndarray, "N K"]]:
    file = weights.weight_file(source)
    weights_digest = store.digest(file)
    net = weights.load(file)
    if store.digest(file) != weights_digest:
        raise UserError(f"{file} was replaced while it was read; start again")
    folder = file.parent if Path(source).is_dir() else cache_folder()
    scales = tuple(scales) or (test_scale(card),)
    data = fingerprint(setup.dataset)

    def path_of(one: Pass) -> Path | None:
        key = store.key(weights_digest, data, one, setup.computing.precision)
        name = f"{one.method}-Q{one.scale}-{key}.safetensors"
        return folder / "posteriors" / name if folder else None

    matrix = average(_kept_pass(setup, net, one, path_of(one)) for one in passes(method, scales, card.flip))
    named = (protocol(method, scales, card.flip),)
    return _result((card.configuration,), (source,), named, matrix, setup.dataset), matrix


def _result(
    nets: tuple[str, ...],
    sources: tuple[str, ...],
    protocols: tuple[str, ...],
    matrix: Float32[np.ndarray, "N K"],
    dataset: Dataset,
) -> Result:
    top1, top5 = (top_error(matrix, dataset.labels, k) for k in (1, 5))
    return Result(nets, sources, protocols, top1, top5)


def _kept_pass(setup: Setup, net: ConvNet, one: Pass, path: Path | None) -> Float32[np.ndarray, "N K"]:
    """A pass's matrix, found stored or computed and stored."""
    dataset, ranks = setup.dataset, setup.ranks
    if path is None:
        return one_pass(net, dataset, one, ranks, setup.computing, setup.sizes)
    # The first rank reads and writes for all, which may be on machines without that file.
    there = store.matrix(path, len(dataset), net.classes) if ranks.first else None
    if ranks.total(torch.tensor(float(there is not None))).item():
        found = np.zeros((len(dataset), net.classes), np.float32) if there is None else there
        if ranks.first:
            setup.say(f"{one.method}, Q = {one.scale}: found stored in {path}")
        return ranks.total(torch.from_numpy(found)).cpu().numpy()
    unfinished = path.with_suffix(f".{ranks.rank}-of-{ranks.world}.unfinished")
    matrix = one_pass(net, dataset, one, ranks, setup.computing, setup.sizes, unfinished)
    if ranks.first:
        try:
            store.save(path, {"posteriors": matrix})
        except UserError as error:  # which is no reason to lose the result
            setup.say(f"{one.method}, Q = {one.scale}: not stored: {error}")
    ranks.wait()  # until what is removed next is not needed any more
    for left in path.parent.glob(f"{path.stem}.*.unfinished"):  # of other numbers of ranks, too
        left.unlink(missing_ok=True)
    return matrix
