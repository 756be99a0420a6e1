"""The nets of benchmarks/engine.py, by the names that its scripts use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Net:
    """A net of Table 1 with its sizes: arguments of `verydeep.ConvNet`, and its title in results."""

    title: str
    name: str
    classes: int = 1000
    crop: int = 224
    width: float = 1.0
    fully_connected: int = 4096


NETS = {
    "D": Net("D (1000 classes, 224 x 224)", "D"),
    "A-miniature": Net("A at crop 64, a quarter of the channels", "A", 10, 64, 0.25, 1024),
    "smoke": Net("D at crop 64, an eighth of the channels", "D", 10, 64, 0.125, 64),
}
