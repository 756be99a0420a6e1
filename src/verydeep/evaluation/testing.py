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
from verydeep.evaluation import store
from verydeep.evaluation.metrics import Error, top_error
from verydeep.evaluation.posteriors import Computing, Pass, average, one_pass, passes, protocol
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


def test(
    sources: Sequence[str],
    dataset: Dataset,
    sizes: Integer[np.ndarray, "N 2"],
    scales: Sequence[int],
    method: str,
    ranks: Ranks,
    computing: Computing,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Result, ...]:
    """Test each net, and the mean of all their posteriors where there are several (Sect. 4.4).

    Args:
        sources: runs or weight files.
        dataset: the images.
        sizes: width and height of the images.
        scales: test scales Q in pixels; where empty, each net's own by the rule of Sect. 4.1.
        method: dense, multi-crop, both or centre-crop.
        ranks: of this process.
        computing: where and how.
        say: is told what was found stored.

    Returns:
        A result a net, in order, and one of all together where there are several.

    Raises:
        UserError: where a net's classes are not the data set's, and what loading and testing refuse.
    """
    found = [_test_one(source, dataset, sizes, scales, method, ranks, computing, say) for source in sources]
    results = [result for result, _ in found]
    if len(found) > 1:
        together = average([matrix for _, matrix in found])
        results.append(
            Result(
                nets=tuple(result.nets[0] for result in results),
                sources=tuple(sources),
                protocols=tuple(result.protocols[0] for result in results),
                top1=top_error(together, dataset.labels, 1),
                top5=top_error(together, dataset.labels, 5),
            )
        )
    return tuple(results)


def test_scale(card: Card) -> int:
    """Q for a net where none is given: S, or 0.5 (Smin + Smax) (Sect. 4.1), in pixels.

    A net whose training scale is not known is taken for one of S = 256 crop / 224.
    """
    return middle(*(card.training_scale or (scaled(PAPER_SCALE, card.crop),) * 2))


def middle(low: int, high: int) -> int:
    """0.5 (Smin + Smax), in whole pixels."""
    return (low + high) // 2


def _test_one(
    source: str,
    dataset: Dataset,
    sizes: Integer[np.ndarray, "N 2"],
    scales: Sequence[int],
    method: str,
    ranks: Ranks,
    computing: Computing,
    say: Callable[[str], None],
) -> tuple[Result, Float32[np.ndarray, "N K"]]:
    card = weights.read_card(source)
    stored = card.class_names or dataset.classes[: card.classes]  # without names their number must do
    compare_classes(dataset.classes, stored, dataset.name, source)
    net = weights.load(source)
    file = weights.weight_file(source)
    folder = file.parent if Path(source).is_dir() else cache_folder()
    scales = tuple(scales) or (test_scale(card),)
    weights_digest, data = store.digest(file), fingerprint(dataset)
    matrices = []
    for one in passes(method, scales, card.flip):
        key = store.key(weights_digest, data, one, computing.precision)
        name = f"{one.method}-Q{one.scale}-{key}.safetensors"
        matrices.append(
            _kept_pass(
                net, dataset, one, ranks, computing, sizes, folder / "posteriors" / name if folder else None, say
            )
        )
    matrix = average(matrices)
    result = Result(
        nets=(card.configuration,),
        sources=(source,),
        protocols=(protocol(method, scales, card.flip),),
        top1=top_error(matrix, dataset.labels, 1),
        top5=top_error(matrix, dataset.labels, 5),
    )
    return result, matrix


def _kept_pass(
    net: ConvNet,
    dataset: Dataset,
    one: Pass,
    ranks: Ranks,
    computing: Computing,
    sizes: Integer[np.ndarray, "N 2"],
    path: Path | None,
    say: Callable[[str], None],
) -> Float32[np.ndarray, "N K"]:
    """A pass's matrix, found stored or computed and stored."""
    if path is None:
        return one_pass(net, dataset, one, ranks, computing, sizes)
    there = (store.load(path) or {}).get("posteriors")
    # All ranks must take the same way, though one may see the file and another not yet.
    seen = ranks.total(torch.tensor(float(there is not None))).item()
    if there is not None and seen == ranks.world:
        say(f"{one.method}, Q = {one.scale}: found stored in {path}")
        return there
    unfinished = path.with_suffix(f".{ranks.rank}-of-{ranks.world}.unfinished")
    matrix = one_pass(net, dataset, one, ranks, computing, sizes, unfinished)
    if ranks.first:
        store.save(path, {"posteriors": matrix})
    return matrix
