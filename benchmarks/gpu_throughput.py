"""Net D on one NVIDIA GPU, beside torchvision's and timm's vgg16: training, testing, one image, whole images.

Claims: in bfloat16 at 256 images, a training step is at least 1.15 times as fast as the faster of the two peers,
compiled by torch.compile with channels last, and a pass in testing at least 1.25 times. The images lie in the
memory of the GPU. A training step is forward, loss, backward and update; all sides compute under autocast with
float32 weights and use torch's fused SGD. In testing all weights are bfloat16, with channels last. Whole images
(8 x 384 x 512) are a comparison with plain torch, since neither peer tests densely. The sides take turns for
several rounds; times are medians.

    python benchmarks/gpu_throughput.py
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import verydeep
from claims import Claim, Observation, destination, options, record
from gpu_machine import device_for, versions, wait
from plain_torch import plain_torch
from verydeep.computing import Computing
from verydeep.distributed import Ranks
from verydeep.training.augmentation import MiniBatch
from verydeep.training.step import Execution, Step, new_optimiser

OURS = "verydeep"
TRAINING, TESTING = 1.15, 1.25
"""How many times as fast as the faster compiled peer."""
RATES = {"training": 4000.0, "testing": 14000.0}
"""Images per second in bfloat16 at 256 images."""

Turn = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One comparison."""

    what: str
    """training, testing, one image, or whole images."""
    precision: str
    images: int
    repeats: int
    """Calls per turn."""


CASES = (
    Case("training", "bf16", 256, 4),
    Case("testing", "bf16", 256, 8),
    Case("one image", "bf16", 1, 60),
    Case("whole images", "bf16", 8, 20),
    Case("training", "tf32", 256, 2),
    Case("testing", "tf32", 256, 4),
)
SMOKE = tuple(Case(case.what, case.precision, 2, 1) for case in CASES if case.precision == "bf16")
WHOLE = (384, 512)


def peers(smoke: bool) -> dict[str, Callable[[], nn.Module]]:
    """Return the peers that are installed: functions that make vgg16 with random weights."""
    if smoke:
        made = small().state_dict()
        return {"plain torch": lambda: plain_torch(made)}
    found: dict[str, Callable[[], nn.Module]] = {}
    try:
        import torchvision  # type: ignore[import-not-found]

        found["torchvision"] = lambda: torchvision.models.vgg16(weights=None)
    except ImportError as error:
        print(f"torchvision is left out: {error}")
    try:
        import timm  # type: ignore[import-not-found]

        found["timm"] = lambda: timm.create_model("vgg16", pretrained=False, drop_rate=0.5)
    except ImportError as error:
        print(f"timm is left out: {error}")
    return found


def small() -> verydeep.ConvNet:
    return verydeep.ConvNet("A", crop=224, width=1 / 16, fully_connected=32)


def our_training(net: verydeep.ConvNet, case: Case, device: torch.device) -> Turn:
    """Return a step of our training on images in the GPU's memory."""
    optimiser = new_optimiser(net.train(), verydeep.Recipe(net="D"), 0.01)
    step = Step(net, optimiser, Ranks(device=device), Execution(Computing(case.precision)))  # type: ignore[arg-type]
    share = MiniBatch(
        torch.randint(0, 256, (case.images, 3, 224, 224), dtype=torch.uint8, device=device),
        torch.randint(0, net.classes, (case.images,), device=device),
        torch.zeros(case.images, 3, device=device),
        torch.arange(case.images, device=device),
    )
    return lambda: step.begin(share, case.images)


def their_training(net: nn.Module, case: Case, device: torch.device, compiled: str | None) -> Turn:
    """Return a step of training as most people would write it."""
    net = net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    images = torch.randn(case.images, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (case.images,), device=device)
    called = torch.compile(net, backend=compiled) if compiled else net

    def turn() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bf16"):
            loss = F.cross_entropy(called(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return turn


def testing(net: nn.Module, images: Tensor, compiled: str | None) -> Turn:
    """Return a pass without gradients."""
    called = torch.compile(net, backend=compiled) if compiled else net

    def turn() -> Tensor:
        with torch.inference_mode():
            found: Tensor = called(images)
            return found

    return turn


def sides(case: Case, device: torch.device, smoke: bool) -> Iterator[tuple[str, Turn]]:
    """Yield the sides of a comparison: ours first, then each peer, eager and compiled."""
    half = torch.bfloat16 if case.precision == "bf16" else torch.float32
    compiler = "eager" if smoke else "inductor"  # torch's backend: the first compiles nothing
    ours = (small() if smoke else verydeep.ConvNet("D")).to(device)
    verydeep.initialise(ours, "glorot", seed=0)
    if case.what == "training":
        yield OURS, our_training(ours, case, device)
        for name, make in peers(smoke).items():
            yield f"{name}, eager", their_training(make(), case, device, compiled=None)
            yield f"{name}, compiled", their_training(make(), case, device, compiled=compiler)
        return
    size = WHOLE if case.what == "whole images" else (224, 224)
    raw = torch.randint(0, 256, (case.images, 3, *size), dtype=torch.uint8, device=device)
    weights = ours.state_dict()
    yield OURS, testing(ours.to(half, memory_format=torch.channels_last).eval(), raw, compiled=None)  # type: ignore[call-overload]
    if case.what == "whole images":
        dense = plain_torch(weights, dense=True, layout=torch.channels_last).to(device, half).eval()
        yield "plain torch, eager", testing(dense, raw, compiled=None)
        yield "plain torch, compiled", testing(dense, raw, compiled=compiler)
        return
    images = torch.randn(case.images, 3, *size, device=device, dtype=half)
    images = images.contiguous(memory_format=torch.channels_last)
    for name, make in peers(smoke).items():
        net = make().to(device, half, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        yield f"{name}, eager", testing(net, images, compiled=None)
        yield f"{name}, compiled", testing(net, images, compiled=compiler)


def compare(case: Case, device: torch.device, rounds: int, smoke: bool) -> dict[str, float]:
    """Return the seconds per call of each side, as medians over the rounds."""
    computing = Computing("tf32" if case.precision == "tf32" and device.type == "cuda" else "fp32")
    with computing.settings(device, fixed_shapes=True):  # cuDNN's benchmark, for all sides
        taking = dict(sides(case, device, smoke))
        for name, turn in list(taking.items()):
            if device.type == "cuda":
                torch.cuda.empty_cache()  # cuDNN chooses slower algorithms if there is little room
            started = time.perf_counter()
            try:
                for _ in range(3):
                    turn()
                wait(device)
            except Exception as error:  # one side that fails must not hide the others
                print(f"  {name} failed: {str(error).splitlines()[0][:200]}", flush=True)
                del taking[name]
            else:
                print(f"  {name}: ready in {time.perf_counter() - started:.1f} s", flush=True)
        seconds: dict[str, list[float]] = {name: [] for name in taking}
        for _ in range(rounds):
            for name, turn in taking.items():
                wait(device)
                started = time.perf_counter()
                for _ in range(case.repeats):
                    turn()
                wait(device)
                seconds[name].append((time.perf_counter() - started) / case.repeats)
    return {name: statistics.median(each) for name, each in seconds.items()}


def judged(case: Case, found: Mapping[str, float]) -> tuple[list[Claim], list[Observation]]:
    """Return claims and observations about a comparison."""
    what = f"D, {case.what}, {case.precision}, {case.images} images"
    times = {name: round(value / found[OURS], 3) for name, value in found.items() if name != OURS}
    compiled = {name: value for name, value in times.items() if name.endswith("compiled")}
    rate = case.images / found[OURS]
    seen = [
        Observation(
            f"{what}: milliseconds",
            round(1e3 * found[OURS], 3),
            "ms",
            {k: round(1e3 * v, 3) for k, v in found.items()},
        ),
    ]
    claims = []
    if case.precision == "bf16" and case.what in RATES and compiled:
        least = TRAINING if case.what == "training" else TESTING
        claims.append(
            Claim(
                f"{what}: speed relative to the faster compiled peer",
                min(compiled.values()),
                "times",
                {"at least": least},
                times,
            )
        )
        claims.append(Claim(f"{what}: speed", round(rate, 1), "images/s", {"at least": RATES[case.what]}))
    elif times:
        seen.append(
            Observation(f"{what}: speed relative to the fastest peer", min(times.values()), "times", times)
        )
        seen.append(Observation(f"{what}: speed", round(rate, 1), "images/s"))
    return claims, seen


def arguments() -> argparse.Namespace:
    parser = options(__doc__, "gpu_throughput")
    parser.add_argument("--rounds", type=int, default=5, help="[default: %(default)s]")
    parser.add_argument("--only", nargs="*", help="cases, such as 'training bf16' [default: all]")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    device = device_for(given.smoke)
    claims: list[Claim] = []
    seen: list[Observation] = []
    status = 0
    for case in SMOKE if given.smoke else CASES:
        if given.only and f"{case.what} {case.precision}" not in given.only:
            continue
        print(f"{case.what}, {case.precision}, {case.images} images", flush=True)
        torch.manual_seed(0)
        more = judged(case, compare(case, device, 1 if given.smoke else given.rounds, given.smoke))
        claims, seen = claims + more[0], seen + more[1]
        # Written after each case, so that a time limit costs one case.
        status = record(destination(given), claims, seen, versions=versions())
        torch._dynamo.reset()
    return status


if __name__ == "__main__":
    sys.exit(main())
