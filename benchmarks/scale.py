"""How long a training step of net D takes on 1 to 1,024 GPUs, by arithmetic from its time on one.

Prints the tables of docs/scale.md, or writes them there. The time on one GPU is that of `gpu_throughput.py` if
results/ has it, and otherwise an assumption; `--rate` sets another. The page lists what else is assumed.

    python benchmarks/scale.py
    python benchmarks/scale.py --write
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from claims import RESULTS, ROOT, read
from verydeep.configurations import Layer, output_sides
from verydeep.distributed import buckets
from verydeep.network import ConvNet
from verydeep.training.gathering import ARITHMETIC, NETWORK, cheaper

PAGE = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- made by benchmarks/scale.py -->", "<!-- end -->"

RATE = 4000.0
"""Images per second on one GPU, if none was measured: the target on an H100."""
MEASURED = "D, training, bf16, 256 images: speed"
BATCH = 256
NUMBER = 2
"""Bytes of a gathered number in bfloat16; fc8's have 4."""

MEMORY = 2.8e12
"""Bytes per second of the GPU's memory."""
PASSES = 38
"""Bytes that a step moves per parameter, however few images it has: 20 for the update with momentum, 12 for the
conversion to bfloat16 and back, 6 for three passes over the converted weights."""
PRODUCTS = 4e14
"""Operations per second in matrix products of bfloat16."""
FORWARD = 1 / 3
"""Share of the forward pass in what a step takes per image."""

RANKS = tuple(2**power for power in range(11))


@dataclass(frozen=True)
class Network:
    """What connects the GPUs."""

    name: str
    speed: float
    """Bytes per second and direction of a GPU that arrive: four fifths of the nominal speed."""
    latency: float
    """Seconds that a message needs besides, at each of log2(ranks) levels."""


NETWORKS = (
    Network("NVLink (450 GB/s)", 0.8 * 450e9, 5e-6),
    Network("400 Gb/s", 0.8 * 50e9, 15e-6),
    Network("25 Gb/s", 0.8 * 3.125e9, 30e-6),
)


@dataclass(frozen=True)
class Message:
    """What ranks send together during the backward pass."""

    ready: float
    """Share of the backward pass after which it is sent."""
    added: float = 0
    """Bytes of gradients that are added."""
    gathered: float = 0
    """Bytes per image that are gathered."""

    def seconds(self, network: Network, world: int, images: int) -> float:
        """Return how long it takes over all ranks: a ring for the bytes, a tree for the latency."""
        passed = (2 * self.added + images * self.gathered) * (world - 1) / world
        return passed / network.speed + (2 if self.added else 1) * math.log2(world) * network.latency


@dataclass(frozen=True)
class Net:
    """Net D, as far as ranks are concerned."""

    parameters: int
    added: tuple[Message, ...]
    """The messages if all gradients are added, in the order in which they are sent."""
    gathered: tuple[Message, ...]
    """The messages if those of fc6, fc7 and fc8 are formed from inputs and output gradients."""
    weights: int
    """Number of weights of these three layers."""


def net_d() -> Net:
    """Take the messages from the package itself."""
    with torch.device("meta"):
        net = ConvNet("D")
    layers = [layer for layer in net.layers if layer.kind == "conv"]
    done = dict(_done(net))
    owner = {id(parameter): name.split(".")[0] for name, parameter in net.named_parameters()}

    def message(bucket: list[torch.nn.Parameter]) -> Message:
        return Message(max(done[owner[id(each)]] for each in bucket), 4 * sum(each.numel() for each in bucket))

    full = [layer for layer in reversed(layers) if layer.fully_connected]
    weights = [net.get_parameter(f"{layer.name}.weight") for layer in full]
    apart = {id(weight) for weight in weights}
    gathered = [
        Message(done[layer.name], gathered=_size(layer) * (len(weight) + weight[0].numel()))
        for layer, weight in zip(full, weights, strict=True)
    ]
    rest = [each for each in net.parameters() if id(each) not in apart]
    return Net(
        sum(each.numel() for each in net.parameters()),
        tuple(message(bucket) for bucket in buckets(net.parameters())),
        (*gathered, *(message(bucket) for bucket in buckets(rest))),
        sum(weight.numel() for weight in weights),
    )


def _size(layer: Layer) -> int:
    return 4 if layer.name == "fc8" else NUMBER


def _done(net: ConvNet) -> Iterator[tuple[str, float]]:
    """Yield each layer, and the share of the backward pass after which its gradient is ready: by multiply-adds."""
    sides = output_sides(net.layers, net.crop)
    counts = {layer.name: layer.multiply_adds(side) for layer, side in zip(net.layers, sides, strict=True)}
    # The images need no gradient, so conv1_1 has half as much to do.
    counts["conv1_1"] //= 2
    whole, so_far = sum(counts.values()), 0
    for layer in reversed(net.layers):
        so_far += counts[layer.name]
        yield layer.name, so_far / whole


def step(net: Net, rate: float, network: Network, world: int, images: int, gather: bool) -> float:
    """Return the seconds of a step.

    Args:
        net: the net.
        rate: images per second on one GPU, with mini-batches of `BATCH`.
        network: what connects the GPUs.
        world: how many there are.
        images: in the mini-batch, over all of them.
        gather: whether fc6, fc7 and fc8 are gathered; otherwise all gradients are added.
    """
    constant = PASSES * net.parameters / MEMORY
    share = -(-images // world)
    computed = share * (BATCH / rate - constant) / BATCH
    forward, backward = FORWARD * computed, (1 - FORWARD) * computed
    if world == 1:
        return constant + computed
    sent = 0.0
    for message in net.gathered if gather else net.added:
        sent = max(sent, message.ready * backward) + message.seconds(network, world, share * world)
    more = 2 * net.weights * (share * world - share) / PRODUCTS if gather else 0.0
    return constant + forward + max(backward, sent) + more


def table(net: Net, rate: float, images: int | None) -> list[str]:
    """Return the lines of a table.

    Args:
        net: the net.
        rate: as for `step`.
        images: in a mini-batch over all ranks; if None, `BATCH` on each.
    """
    lines = [
        "| GPUs | images on each | " + " | ".join(f"{each.name}: added | gathered" for each in NETWORKS) + " |",
        "|--:|--:|" + "--:|--:|" * len(NETWORKS),
    ]
    for world in RANKS:
        whole = images or BATCH * world
        cells = []
        for network in NETWORKS:
            times = [1e3 * step(net, rate, network, world, whole, gather) for gather in (False, True)]
            texts = [f"{each:.1f}" for each in times]
            least = times.index(min(times))
            texts[least] = f"**{texts[least]}**" if texts[0] != texts[1] else texts[least]
            cells += texts
        each = f"{whole / world:g}" if whole % world == 0 else "0 or 1"
        lines.append(f"| {world:,} | {each} | {' | '.join(cells)} |")
    return lines


def limits() -> list[str]:
    """Return which mini-batches the package gathers: the largest, by layer, on GPUs in bfloat16."""
    with torch.device("meta"):
        net = ConvNet("D")
    lines = ["| layer | gathered up to a mini-batch of |", "|---|--:|"]
    for layer in (each for each in net.layers if each.kind == "conv" and each.fully_connected):
        weight = net.get_parameter(f"{layer.name}.weight")
        low, high = 1, 10**6
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if cheaper(weight, middle, "cuda", _size(layer)) else (low, middle)
        lines.append(f"| {layer.name} | {low:,} |")
    return lines


def measured(results: Path = RESULTS) -> float | None:
    """Return the images per second that were measured on one GPU; None if none were."""
    for file in sorted(results.glob("gpu_*.json")):
        found = read(file)
        rates = {each.claim: each.measured for each in found.claims} | {
            each.observation: each.measured for each in found.observations
        }
        if MEASURED in rates:
            return rates[MEASURED]
    return None


def tables(rate: float, source: str) -> str:
    """Return the part of the page that is computed."""
    net = net_d()
    one = 1e3 * BATCH / rate
    lines = [
        f"One GPU: {rate:,.0f} images/s, {one:.1f} ms per step of {BATCH} images ({source}).",
        "",
        "### The paper's mini-batch: 256 images over all GPUs",
        "",
        "Milliseconds per step:",
        "",
        *table(net, rate, BATCH),
        "",
        "### 256 images on each GPU",
        "",
        "Milliseconds per step:",
        "",
        *table(net, rate, None),
        "",
        "### What the package chooses between machines",
        "",
        f"It assumes {NETWORK * 8 / 1e9:g} Gb/s and {ARITHMETIC['cuda'] / 1e12:g} TFLOP/s:",
        "",
        *limits(),
    ]
    return "\n".join(lines)


def page(text: str, part: str) -> str:
    """Return the text of the page with another computed part."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def computed(rate: float | None = None) -> str:
    """Return the computed part for a rate; if None, for the measured one, or the assumption."""
    if rate is not None:
        return tables(rate, "as given")
    found = measured()
    return (
        tables(found, "measured: [results/gpu_throughput.json](../results/gpu_throughput.json)")
        if found
        else tables(RATE, "an assumption: not measured yet")
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="images per second on one GPU, at 256 images")
    parser.add_argument("--write", action="store_true", help="write docs/scale.md")
    given = parser.parse_args()
    part = computed(given.rate)
    print(part)
    if given.write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), part), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
