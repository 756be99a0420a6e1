"""Mutate files of this project's own formats, and check that none is silently read with other contents.

    PYTHONPATH=tests python tests/campaigns/mutations.py 2000

writes a file of each format, makes 2000 mutations of it (a flipped bit, changed bytes, a page of zeros, a cut, two
pages swapped, inserted bytes) and reads each. It prints how many were refused, how many still had the same
contents, and how many were silently read with other contents. The exit code is 1 if there were any of the last.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from made_up import made_up, write
from verydeep import weights
from verydeep.datasets import survey
from verydeep.errors import UserError
from verydeep.evaluation import store
from verydeep.experiments.results import OUTCOMES, RESULTS, TIMES, read_outcomes, read_results, read_times
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training import checkpoint
from verydeep.training.checkpoint import Progress
from verydeep.training.directory import Entered
from verydeep.training.start import Start
from verydeep.training.step import new_optimiser

RECIPE = Recipe(crop=32, width=0.125, fully_connected=8)
Format = tuple[Path, Callable[[], object]]
"""A file, and a function that reads its contents, and returns None or raises UserError to refuse it."""


def formats(folder: Path) -> dict[str, Format]:
    """Write a file of each format."""
    random = np.random.default_rng(0)
    net = ConvNet(RECIPE.architecture(3))
    optimiser = new_optimiser(net, RECIPE, 0.01)
    for parameter in net.parameters():
        optimiser.state[parameter]["momentum_buffer"] = torch.randn_like(parameter)
    entered = Entered(folder, Start(None, None, None, 0.01), {"recipe": {"seed": 0}, "start": None, "data": "d"})
    checkpoint.save(entered, net, optimiser.state_dict(), Progress(3, 1.5, 2, 5, [0.5], [1.0]))
    weights.save(net, folder / "net.safetensors")
    posteriors = random.dirichlet(np.ones(10), 100).astype(np.float32)
    store.save(folder / "matrix", {"posteriors": posteriors})
    store.save(folder / "part", {"posteriors": posteriors[:50], "rows": random.permutation(100)[:50]})
    surveyed = survey.Survey(
        random.integers(1, 500, (100, 2), np.int32), ((3, "a.jpg: cut"),), np.ones(3), np.eye(3)
    )
    survey._keep_survey(folder / "survey.npz", surveyed)
    write(folder, *made_up(images=60))

    def restored() -> object:
        progress = checkpoint.restore(entered, net, optimiser)
        tensors = [*net.state_dict().values(), *(each["momentum_buffer"] for each in optimiser.state.values())]
        return progress, optimiser.param_groups[0]["lr"], [tensor.numpy().tobytes() for tensor in tensors]

    def loaded() -> object:
        found = weights.load(folder / "net.safetensors")
        return repr(found.card), [tensor.numpy().tobytes() for tensor in found.state_dict().values()]

    def matrix() -> object:
        found = store.matrix(folder / "matrix", 100, 10)
        return None if found is None else found.tobytes()

    def part() -> object:
        found = store.part(folder / "part", range(100), 10)
        return None if found is None else [array.tobytes() for array in found]

    def kept() -> object:
        found = survey._load_survey(folder / "survey.npz", 100)
        return found and (
            found.sizes.tobytes(),
            found.unreadable,
            found.mean.tobytes(),
            found.covariance.tobytes(),
        )

    def outcomes() -> object:
        found = read_outcomes(folder)
        parts = [
            {key: array.tobytes() for key, array in each.items()} for each in (found.rank, found.said, found.loss)
        ]
        return found.names, found.labels.tobytes(), parts

    return {
        "checkpoint": (folder / checkpoint.CHECKPOINT, restored),
        "weights": (folder / "net.safetensors", loaded),
        "posteriors": (folder / "matrix", matrix),
        "unfinished pass": (folder / "part", part),
        "survey": (folder / "survey.npz", kept),
        "outcomes": (folder / OUTCOMES, outcomes),
        "results": (folder / RESULTS, lambda: read_results(folder)),
        "times": (folder / TIMES, lambda: read_times(folder)),
    }


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Return the contents with one random change, half of the time near the beginning or end."""
    changed = bytearray(content)
    reach = len(content) if random.random() < 0.5 else min(len(content), 1500)
    at = int(random.integers(reach)) if random.random() < 0.5 else len(content) - 1 - int(random.integers(reach))
    match random.integers(6):
        case 0:
            changed[at] ^= 1 << int(random.integers(8))
        case 1:
            for place in random.integers(0, len(content), random.integers(1, 9)):
                changed[place] = random.integers(256)
        case 2:
            page = bytes(min(int(random.choice([16, 512, 4096])), len(content) - at))
            changed[at : at + len(page)] = page
        case 3:
            del changed[at:]
        case 4:
            other, size = int(random.integers(len(content))), int(random.choice([1, 8, 64, 512]))
            one, two = sorted((at, other))
            first, second = changed[one : one + size], changed[two : two + size]
            if one + size <= two and len(first) == len(second):
                changed[one : one + size], changed[two : two + size] = second, first
        case 5:
            changed[at:at] = random.bytes(int(random.integers(1, 9)))
    return bytes(changed)


def main(count: int) -> int:
    """Run the campaign with `count` mutations of each format and return the exit code."""
    silently = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, read) in formats(Path(folder)).items():
            whole, random = path.read_bytes(), np.random.default_rng(len(name))
            expected = read()
            assert expected is not None
            found: Counter[str] = Counter()
            for _ in range(count):
                changed = mutated(whole, random)
                path.write_bytes(changed)
                try:
                    content = read()
                except UserError as error:
                    found["several lines"] += "\n" in str(error)
                    content = None
                kind = "refused" if content is None else "the same" if content == expected else "taken silently"
                found[kind] += changed != whole
            path.write_bytes(whole)
            silently += found["taken silently"] + found["several lines"]
            print(f"{name}: {dict(found)}", flush=True)
    return int(silently > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
