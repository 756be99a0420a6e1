"""The findings of Sect. 4 as data: for each, which rows of the plan are compared, and which has to err less."""

from dataclasses import dataclass

from verydeep.experiments.plan import (
    AROUND_256,
    AROUND_384,
    FIXED,
    LARGE,
    TABLES,
    WIDE,
    Method,
    Row,
    Tested,
)


@dataclass(frozen=True)
class Pair:
    """Two rows of the plan, by their keys: the claim is that the one errs less than the other."""

    row: str
    against: str


@dataclass(frozen=True)
class Contrast:
    """Pairs whose differences are averaged, in words: "with `what` than with `than`, `tested`"."""

    what: str
    than: str
    tested: str
    """How: "densely", "on the centre crop"."""
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Claim:
    """A finding of the paper."""

    name: str
    says: str
    """The finding, in our words."""
    section: str
    contrasts: tuple[Contrast, ...]
    """The paper's own. All have to hold."""
    controlled: tuple[Contrast, ...] = ()
    """The same against a control that the paper has not; they decide instead where they are measured."""
    also: tuple[Contrast, ...] = ()
    """Shown, and decide nothing."""
    margin: float | None = None
    """For a claim that something does not help: the share of the images, in [0, 1], that counts as no gain."""
    padded: bool = False
    """Whether dense testing refutes it only if it loses nothing against the windows of its maps as crops."""


NO_GAIN = 0.005
"""Half a point: less than any step from A to D in Table 3."""

_DENSELY, _CENTRE, _WINDOWS = "densely", "on the centre crop", "on the dense map's windows as crops"
_TESTED: dict[Method, str] = {
    "dense": _DENSELY,
    "multi-crop": "by multi-crop",
    "centre-crop": _CENTRE,
    "windows": _WINDOWS,
}
_TOGETHER = tuple(Tested(net, WIDE) for net in ("D-jitter", "E-jitter"))
_FINE_TUNED = ("C", "D", "E")


def _key(net: str, scales: tuple[int, ...], method: Method = "dense") -> str:
    return Row((Tested(net, scales),), method).key


def _at_256(nets: tuple[str, ...], against: str, what: str, than: str, method: Method) -> Contrast:
    pairs = tuple(Pair(_key(net, FIXED, method), _key(against, FIXED, method)) for net in nets)
    return Contrast(what, than, _TESTED[method], pairs)


def _nets(net: str, against: str, method: Method = "dense") -> Contrast:
    return _at_256((net,), against, net, against, method)


def _deeper(method: Method = "dense") -> Contrast:
    return _at_256(("D", "E"), "A", "D and E", "A", method)


def _deeper_than_longer(method: Method = "dense") -> Contrast:
    return _at_256(("D", "E"), "A-longer", "D and E", "A trained as long", method)


def _jittered(suffix: str, than: str, scales: tuple[int, ...], others: tuple[int, ...], tested: str) -> Contrast:
    pairs = tuple(Pair(_key(f"{net}-jitter", scales), _key(f"{net}-384{suffix}", others)) for net in _FINE_TUNED)
    return Contrast("scale jittering in training", than, tested, pairs)


def _several_scales(what: str, *scales: tuple[int, ...]) -> Contrast:
    """Rows of Table 4 at these scales, each against its net's row of Table 3."""
    at_one = {row.nets[0].training: row.key for row in TABLES["table3"].rows}
    pairs = tuple(
        Pair(row.key, at_one[row.nets[0].training])
        for row in TABLES["table4"].rows
        if row.nets[0].scales in scales
    )
    return Contrast(what, "one", _DENSELY, pairs)


def _both_methods(other: Method) -> Contrast:
    pairs = tuple(Pair(Row((net,), "both").key, Row((net,), other).key) for net in _TOGETHER)
    return Contrast("dense and multi-crop testing together", f"{other} testing alone", "at three scales", pairs)


def _both_nets(alone: Tested, method: Method, tested: str) -> Contrast:
    pair = Pair(Row(_TOGETHER, method).key, Row((alone,), method).key)
    return Contrast("D and E together", f"{alone.training[0]} alone", tested, (pair,))


CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        Claim(
            "normalisation",
            "Local response normalisation does not help: A-LRN errs no less than A.",
            "4.1",
            (_nets("A-LRN", "A"),),
            also=(_nets("A-LRN", "A", "centre-crop"),),
            margin=NO_GAIN,
        ),
        Claim(
            "depth",
            "Deeper nets err less: D and E, with 16 and 19 layers, less than A with 11.",
            "4.1",
            (_deeper(),),
            controlled=(_deeper_than_longer(),),
            also=(
                _deeper("centre-crop"),
                _deeper_than_longer("centre-crop"),
                _deeper("multi-crop"),
                _deeper_than_longer("multi-crop"),
                _deeper("windows"),
                _deeper_than_longer("windows"),
            ),
            padded=True,
        ),
        Claim(
            "non-linearity",
            "More non-linearity helps: C, which is B with three 1x1 layers more, errs less than B.",
            "4.1",
            (_nets("C", "B"),),
            also=(_nets("C", "B", "centre-crop"),),
        ),
        Claim(
            "context",
            "Spatial context helps: D, with 3x3 layers where C has 1x1, errs less than C.",
            "4.1",
            (_nets("D", "C"),),
            also=(_nets("D", "C", "centre-crop"),),
        ),
        Claim(
            "jittering",
            "Scale jittering in training helps, even at one test scale.",
            "4.1",
            (_jittered("", "one S", LARGE, LARGE, "densely at one scale"),),
            controlled=(_jittered("-longer", "one S trained as long", LARGE, LARGE, "densely at one scale"),),
            also=(
                _jittered("", "one S", WIDE, AROUND_384, "densely at three scales each"),
                _jittered("-longer", "one S trained as long", WIDE, AROUND_384, "densely at three scales each"),
            ),
        ),
        Claim(
            "scales",
            "Several test scales are better than one.",
            "4.2",
            (_several_scales("three test scales", AROUND_256, AROUND_384, WIDE),),
            also=(
                _several_scales("three test scales, nets of one S,", AROUND_256, AROUND_384),
                _several_scales("three test scales, nets of jittered S,", WIDE),
            ),
        ),
        Claim(
            "complementary",
            "Dense and multi-crop testing complement each other: both together err less than each.",
            "4.3",
            (_both_methods("dense"), _both_methods("multi-crop")),
        ),
        Claim(
            "fusion",
            "Two nets together, D and E, err less than the better one alone.",
            "4.4",
            tuple(_both_nets(alone, "both", "densely and by multi-crop") for alone in _TOGETHER),
            also=(
                *(_both_nets(alone, "dense", _DENSELY) for alone in _TOGETHER),
                *(_both_nets(alone, "multi-crop", "by multi-crop") for alone in _TOGETHER),
            ),
        ),
        Claim(
            "small-filters",
            "Small filters are better: B errs less than B-5x5, which has a 5x5 layer for every two 3x3 layers.",
            "4.1",
            (_nets("B", "B-5x5", "centre-crop"),),
            controlled=(_at_256(("B-random",), "B-5x5", "B from random weights", "B-5x5", "centre-crop"),),
            also=(
                _nets("B", "B-5x5"),
                _at_256(("B-random",), "B-5x5", "B from random weights", "B-5x5", "dense"),
            ),
        ),
    )
}
"""The paper's findings by name, in its order; small filters, of which it says least, last."""

BORDER: tuple[Contrast, ...] = tuple(
    Contrast(
        f"{net}'s windows as crops",
        "the dense map of the same windows",
        "at Q = S",
        (Pair(_key(net, FIXED, "windows"), _key(net, FIXED)),),
    )
    for net in ("A", "A-longer", "D", "E")
)
"""What dense testing loses because inner windows have no zero padding, as they had in training."""
