"""The verdicts on the paper's findings: each is confirmed, refuted, undecided or not measured.

Each claim is decided by its own paired test at the 5% level, on the same images. The nine p values are not
corrected for multiple comparisons. A single seed never decides a claim.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64

from verydeep.experiments.claims import AS_CROPS, BORDER, CLAIMS, Claim, Contrast, Pair
from verydeep.experiments.paired import Difference, differences, gained_and_lost, mcnemar
from verydeep.experiments.plan import TABLES, measured_rows
from verydeep.experiments.results import Outcomes

Verdict = Literal["confirmed", "refuted", "undecided", "not measured"]


@dataclass(frozen=True)
class OneSeed:
    """A pair of rows for one seed, by McNemar's test."""

    seed: int
    gained: int
    """Images that only `row` got right."""
    lost: int
    """Images that only `against` got right."""
    p: float


@dataclass(frozen=True)
class ComparedPair:
    """A pair of rows, seed by seed."""

    row: str
    against: str
    seeds: tuple[OneSeed, ...]


@dataclass(frozen=True)
class Compared:
    """A contrast, measured."""

    contrast: Contrast
    seeds: tuple[int, ...]
    """The seeds that have measured all its rows."""
    errors: Difference
    """Reduction of the top-1 error as a share of the images, in [-1, 1]; a percentage point is 0.01."""
    log_loss: Difference
    """Reduction of the mean log-loss, in nats: more sensitive than errors, but never decides."""
    printed: float | None
    """The reduction in the paper's tables, as a share like `errors`; None if they do not have it."""
    pairs: tuple[ComparedPair, ...]


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim."""

    claim: Claim
    verdict: Verdict
    says: str
    """The verdict with its figures, in words."""
    by_control: bool
    """Whether the claim's controls decided, instead of the paper's own contrasts."""
    decided_by: tuple[Compared, ...]
    """Empty if it is not measured."""
    also: tuple[Compared, ...]
    """Other measured contrasts, without influence on the verdict."""
    missing: tuple[str, ...]
    """Keys of the rows whose absence prevents a verdict."""


@dataclass(frozen=True)
class Border:
    """Dense testing against its windows as separate crops: inside the map, windows lack zero padding."""

    says: str
    losing: tuple[str, ...]
    """The nets for which the dense map is found to be worse; if any, depth cannot be tested densely."""
    compared: tuple[Compared, ...]
    """The measured comparisons, one per net."""


@dataclass(frozen=True)
class Checked:
    """The verdicts on all claims of the paper."""

    findings: tuple[Finding, ...]
    """In the order of the claims."""
    border: Border


def check_claims(outcomes: Outcomes) -> Checked:
    """Check every claim of the paper. The same outcomes give the same findings."""
    contrasts = (
        contrast for claim in CLAIMS.values() for contrast in claim.contrasts + claim.controlled + claim.also
    )
    compared = _compare(outcomes, (*contrasts, *BORDER))
    border = _border([compared[contrast] for contrast in BORDER if contrast in compared])
    return Checked(tuple(_finding(claim, compared, outcomes, border) for claim in CLAIMS.values()), border)


def _border(compared: Sequence[Compared]) -> Border:
    """Compare dense testing at Q = S with the same windows computed as separate crops."""
    if not compared:
        return Border("not measured: dense testing against the same windows as separate crops", (), ())
    losing = [_net(one) for one in compared if one.errors.low > 0 and len(one.seeds) > 1]
    verdict = (
        f"dense testing of {_listed(losing)} has a higher error than the same windows as separate crops, which "
        "are zero-padded as in training"
        if losing
        else "dense testing is not found to have a higher error than the same windows as separate crops"
    )
    figures = ", ".join(
        f"{_net(one)} {_in_points(one.errors.mean)} [{_in_points(one.errors.low)}, {_in_points(one.errors.high)}]"
        for one in compared
    )
    return Border(
        f"{verdict} (top-1 error of the map minus that of the crops at Q = S, in points, with 95% intervals: "
        f"{figures})",
        tuple(losing),
        tuple(compared),
    )


def _net(one: Compared) -> str:
    """Return the training whose windows are compared."""
    return one.contrast.what.removesuffix(AS_CROPS)


def _listed(names: Sequence[str]) -> str:
    """Names for people: "A, D and E"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _compare(outcomes: Outcomes, contrasts: Iterable[Contrast]) -> dict[Contrast, Compared]:
    """Those contrasts of which at least one seed has measured all rows."""
    seeds = {contrast: _common_seeds(outcomes, contrast) for contrast in contrasts}
    seeds = {contrast: some for contrast, some in seeds.items() if some}
    errors = [_fewer_errors(outcomes, contrast, some) for contrast, some in seeds.items()]
    losses = [_less_loss(outcomes, contrast, some) for contrast, some in seeds.items()]
    found = differences(errors + losses)
    return {
        contrast: Compared(
            contrast,
            some,
            errors=found[number],
            log_loss=found[number + len(seeds)],
            printed=_printed(contrast),
            pairs=tuple(_pair(outcomes, pair, some) for pair in contrast.pairs),
        )
        for number, (contrast, some) in enumerate(seeds.items())
    }


def _common_seeds(outcomes: Outcomes, contrast: Contrast) -> tuple[int, ...]:
    rows = [set(outcomes.measured(key)) for pair in contrast.pairs for key in (pair.row, pair.against)]
    return tuple(sorted(set.intersection(*rows)))


def _fewer_errors(outcomes: Outcomes, contrast: Contrast, seeds: tuple[int, ...]) -> Float64[np.ndarray, "S N"]:
    """Mean over the pairs; one row per seed."""
    return _mean_gain(contrast, lambda key: outcomes.wrong(key, seeds))


def _less_loss(outcomes: Outcomes, contrast: Contrast, seeds: tuple[int, ...]) -> Float64[np.ndarray, "S N"]:
    return _mean_gain(contrast, lambda key: outcomes.log_loss(key, seeds))


def _mean_gain(
    contrast: Contrast, measure: Callable[[str], Float32[np.ndarray, "S N"]]
) -> Float64[np.ndarray, "S N"]:
    gains = np.stack([measure(pair.against) - measure(pair.row) for pair in contrast.pairs])
    mean: Float64[np.ndarray, "S N"] = gains.mean(axis=0, dtype=np.float64)
    return mean


def _pair(outcomes: Outcomes, pair: Pair, seeds: tuple[int, ...]) -> ComparedPair:
    counts = [
        gained_and_lost(outcomes.rank[pair.row, seed] > 0, outcomes.rank[pair.against, seed] > 0) for seed in seeds
    ]
    tests = (
        OneSeed(seed, gained, lost, mcnemar(gained, lost))
        for seed, (gained, lost) in zip(seeds, counts, strict=True)
    )
    return ComparedPair(pair.row, pair.against, tuple(tests))


_PRINTED = {row.key: row.printed.top1 for row in measured_rows(TABLES.values())}


def _printed(contrast: Contrast) -> float | None:
    errors = [(_PRINTED[pair.against], _PRINTED[pair.row]) for pair in contrast.pairs]
    fewer = [(against - row) / 100 for against, row in errors if against is not None and row is not None]
    return sum(fewer) / len(fewer) if len(fewer) == len(errors) else None


def _finding(claim: Claim, compared: dict[Contrast, Compared], outcomes: Outcomes, border: Border) -> Finding:
    by_control = bool(claim.controlled) and all(contrast in compared for contrast in claim.controlled)
    deciding = claim.controlled if by_control else claim.contrasts
    others = claim.contrasts + claim.also if by_control else claim.also
    also = tuple(compared[contrast] for contrast in others if contrast in compared)
    if any(contrast not in compared for contrast in deciding):
        missing = _missing(claim.contrasts, outcomes)
        reason = f"missing {', '.join(missing)}" if missing else "no seed has measured all rows that it compares"
        return Finding(claim, "not measured", f"not measured: {reason}", False, (), also, missing)
    deciders = tuple(compared[contrast] for contrast in deciding)
    verdict = _verdict(deciders, claim.margin)
    notes = []
    if claim.padded and border.losing and verdict == "refuted":
        verdict = "undecided"
        notes.append(
            "dense testing cannot decide this at this size, as it lacks the zero padding of training (see below)"
        )
    says = _sentence(claim, verdict, deciders, by_control, notes)
    return Finding(claim, verdict, says, by_control, deciders, also, ())


def _missing(contrasts: Iterable[Contrast], outcomes: Outcomes) -> tuple[str, ...]:
    """Return the keys of the rows that no seed has measured, each once."""
    keys = (key for contrast in contrasts for pair in contrast.pairs for key in (pair.row, pair.against))
    return tuple(dict.fromkeys(key for key in keys if not outcomes.measured(key)))


def _verdict(deciders: tuple[Compared, ...], margin: float | None) -> Verdict:
    """Confirm a claim if every contrast holds at the 5% level; refute it if any is reversed at that level."""
    found = [one.errors for one in deciders]
    if any(len(one.seeds) == 1 for one in deciders):
        return "undecided"
    if margin is None:
        holds, fails = all(one.low > 0 for one in found), any(one.high < 0 for one in found)
    else:
        holds, fails = all(one.high < margin for one in found), any(one.low > 0 for one in found)
    return "refuted" if fails else "confirmed" if holds else "undecided"


def _sentence(
    claim: Claim, verdict: Verdict, deciders: tuple[Compared, ...], by_control: bool, notes: Sequence[str]
) -> str:
    """Return the verdict, the figures that decided it, and their conditions."""
    seeds = min(len(one.seeds) for one in deciders)
    conditions = [_number_of(seeds, "seed") if seeds > 1 else "one seed, which decides nothing"]
    if claim.controlled:
        conditions.append("compared with a control" if by_control else "its control is not measured")
    if claim.margin is not None:
        conditions.append(f"a gain of up to {_points(claim.margin)} counts as none")
    power = _points(max(one.errors.detectable for one in deciders))
    conditions += [f"smallest detectable difference {power} (80% power)", *notes]
    told = "; ".join(conditions)
    return f"{verdict}: {'; '.join(_figure(one) for one in deciders)}. {told[:1].upper()}{told[1:]}."


def _figure(one: Compared) -> str:
    """As in "D vs A, dense testing: top-1 error 2.1 points lower (95% interval 1.2 to 3.0, p < 0.001)"."""
    found, words = one.errors, one.contrast
    higher = round(found.mean * 100, 1) < 0
    change, low, high = ("higher", -found.high, -found.low) if higher else ("lower", found.low, found.high)
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.2g}"
    return (
        f"{words.what} vs {words.than}, {words.tested}: top-1 error {_points(abs(found.mean))} {change} "
        f"(95% interval {_in_points(low)} to {_in_points(high)}, {p})"
    )


def _in_points(share: float) -> str:
    return f"{round(share * 100, 1) + 0.0:.1f}"  # adding 0 makes -0.0 a 0.0


def _points(share: float) -> str:
    number = _in_points(share)
    return f"{number} point{'' if number == '1.0' else 's'}"


def _number_of(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
