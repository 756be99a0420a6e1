"""The findings of Sect. 4 as data: the rows that each compares, and which must have the lower error."""

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
    """Two rows of the plan, by key. The claim is that `row` has a lower error than `against`."""

    row: str
    against: str


@dataclass(frozen=True)
class Contrast:
    """Pairs whose differences are averaged, with the words for "`what` vs `than`, `tested`"."""

    what: str
    than: str
    tested: str
    """The test method: "dense testing", "centre crop"."""
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Claim:
    """A finding of the paper."""

    name: str
    says: str
    """The finding as a sentence."""
    section: str
    contrasts: tuple[Contrast, ...]
    """The paper's own contrasts. All must hold."""
    controlled: tuple[Contrast, ...] = ()
    """The same against a control, which the paper does not have; they decide instead if they are measured."""
    also: tuple[Contrast, ...] = ()
    """Reported, but without influence on the verdict."""
    margin: float | None = None
    """For a claim that something does not help: the largest gain that counts as none, as a share of the images."""
    padded: bool = False
    """Whether dense testing can refute it only if its error is not above that of its windows as separate crops."""


NO_GAIN = 0.005
"""Half a percentage point: less than any step from A to D in Table 3."""

_DENSE, _CENTRE, _WINDOWS = "dense testing", "centre crop", "windows of the dense map as crops"
_MULTI_CROP = "multi-crop testing"
_DENSE_ONE, _DENSE_THREE = "dense testing at one scale", "dense testing at three scales"
_TESTED: dict[Method, str] = {
    "dense": _DENSE,
    "multi-crop": _MULTI_CROP,
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
    return _at_256(("D", "E"), "A-longer", "D and E", "A trained equally long", method)


def _jittered(suffix: str, than: str, scales: tuple[int, ...], others: tuple[int, ...], tested: str) -> Contrast:
    pairs = tuple(Pair(_key(f"{net}-jitter", scales), _key(f"{net}-384{suffix}", others)) for net in _FINE_TUNED)
    return Contrast("scale jittering in training", than, tested, pairs)


def _several_scales(what: str, *scales: tuple[int, ...]) -> Contrast:
    """Compare the rows of Table 4 at these scales, each with its net's row of Table 3."""
    at_one = {row.nets[0].training: row.key for row in TABLES["table3"].rows}
    pairs = tuple(
        Pair(row.key, at_one[row.nets[0].training])
        for row in TABLES["table4"].rows
        if row.nets[0].scales in scales
    )
    return Contrast(what, "one test scale", _DENSE, pairs)


def _both_methods(other: Method) -> Contrast:
    pairs = tuple(Pair(Row((net,), "both").key, Row((net,), other).key) for net in _TOGETHER)
    return Contrast("dense and multi-crop testing together", f"{other} testing alone", "three test scales", pairs)


def _both_nets(alone: Tested, method: Method, tested: str) -> Contrast:
    pair = Pair(Row(_TOGETHER, method).key, Row((alone,), method).key)
    return Contrast("D and E together", f"{alone.training[0]} alone", tested, (pair,))


CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        Claim(
            "normalisation",
            "Local response normalisation does not help: A-LRN has no lower error than A.",
            "4.1",
            (_nets("A-LRN", "A"),),
            also=(_nets("A-LRN", "A", "centre-crop"),),
            margin=NO_GAIN,
        ),
        Claim(
            "depth",
            "Deeper nets are better: D and E (16 and 19 weight layers) have a lower error than A (11).",
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
            "Additional non-linearity helps: C, which is B plus three 1x1 layers, has a lower error than B.",
            "4.1",
            (_nets("C", "B"),),
            also=(_nets("C", "B", "centre-crop"),),
        ),
        Claim(
            "context",
            "Spatial context helps: D, with 3x3 layers where C has 1x1 layers, has a lower error than C.",
            "4.1",
            (_nets("D", "C"),),
            also=(_nets("D", "C", "centre-crop"),),
        ),
        Claim(
            "jittering",
            "Scale jittering in training helps, even with a single test scale.",
            "4.1",
            (_jittered("", "fixed S", LARGE, LARGE, _DENSE_ONE),),
            controlled=(_jittered("-longer", "fixed S trained equally long", LARGE, LARGE, _DENSE_ONE),),
            also=(
                _jittered("", "fixed S", WIDE, AROUND_384, _DENSE_THREE),
                _jittered("-longer", "fixed S trained equally long", WIDE, AROUND_384, _DENSE_THREE),
            ),
        ),
        Claim(
            "scales",
            "Testing at several scales is better than testing at one.",
            "4.2",
            (_several_scales("three test scales", AROUND_256, AROUND_384, WIDE),),
            also=(
                _several_scales("three test scales (nets trained at fixed S)", AROUND_256, AROUND_384),
                _several_scales("three test scales (nets trained with scale jittering)", WIDE),
            ),
        ),
        Claim(
            "complementary",
            "Dense and multi-crop testing are complementary: together they have a lower error than either alone.",
            "4.3",
            (_both_methods("dense"), _both_methods("multi-crop")),
        ),
        Claim(
            "fusion",
            "Combining two nets helps: D and E together have a lower error than the better of the two.",
            "4.4",
            tuple(_both_nets(alone, "both", "dense and multi-crop testing") for alone in _TOGETHER),
            also=(
                *(_both_nets(alone, "dense", _DENSE) for alone in _TOGETHER),
                *(_both_nets(alone, "multi-crop", _MULTI_CROP) for alone in _TOGETHER),
            ),
        ),
        Claim(
            "small-filters",
            "Small filters are better: B has a lower error than B-5x5, with one 5x5 layer per pair of 3x3 layers.",
            "4.1",
            (_nets("B", "B-5x5", "centre-crop"),),
            controlled=(_at_256(("B-random",), "B-5x5", "B trained from random weights", "B-5x5", "centre-crop"),),
            also=(
                _nets("B", "B-5x5"),
                _at_256(("B-random",), "B-5x5", "B trained from random weights", "B-5x5", "dense"),
            ),
        ),
    )
}
"""The paper's findings by name, in its order, but with small filters, on which it says least, last."""

AS_CROPS = ", windows as crops"
BORDER: tuple[Contrast, ...] = tuple(
    Contrast(
        f"{net}{AS_CROPS}",
        f"{net}, dense map of the same windows",
        "Q = S",
        (Pair(_key(net, FIXED, "windows"), _key(net, FIXED)),),
    )
    for net in ("A", "A-longer", "D", "E")
)
"""The loss of dense testing because inner windows lack the zero padding that they had in training."""
