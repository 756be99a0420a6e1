"""The paper's findings of Appendix A, each with a paired test on the same photographs and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from verydeep.experiments.findings import Verdict
from verydeep.experiments.localisation.plan import CLAIMS, BoxClaim
from verydeep.experiments.localisation.results import BoxMeasurements
from verydeep.experiments.paired import Difference, differences, gained_and_lost, mcnemar


@dataclass(frozen=True)
class BoxFinding:
    """A finding, tested."""

    claim: BoxClaim
    verdict: Verdict
    seeds: tuple[int, ...]
    """Seeds that have measured both rows."""
    errors: Difference | None
    """Reduction of the error, in [-1, 1]: top-5 by protocol 2, of the box by protocol 1; None if not measured."""
    one_by_one: tuple[tuple[int, int, int, float], ...]
    """For each seed: the seed, photographs that only the first row gets right, only the other, and McNemar's p."""

    @property
    def printed(self) -> float | None:
        """The reduction in the paper, in [-1, 1]."""
        row, against = self.claim.row.printed.val, self.claim.against.printed.val
        return None if row is None or against is None else (against - row) / 100


def box_findings(found: BoxMeasurements) -> tuple[BoxFinding, ...]:
    """Test every finding: confirmed or refuted at the 5% level over seeds and photographs; never by one seed."""
    seeds = [_common(found, claim) for claim in CLAIMS]
    samples = [_gains(found, claim, of) for claim, of in zip(CLAIMS, seeds, strict=True) if of]
    tested = iter(differences(samples))
    return tuple(
        _finding(found, claim, of, next(tested) if of else None) for claim, of in zip(CLAIMS, seeds, strict=True)
    )


def _common(found: BoxMeasurements, claim: BoxClaim) -> tuple[int, ...]:
    both = set(found.results.seeds_of(claim.row.key)) & set(found.results.seeds_of(claim.against.key))
    return tuple(sorted(both))


def _gains(found: BoxMeasurements, claim: BoxClaim, seeds: Sequence[int]) -> Float64[np.ndarray, "S N"]:
    row, against = (
        np.stack([found.missed(key, seed) for seed in seeds]).astype(np.float64)
        for key in (claim.row.key, claim.against.key)
    )
    gains: Float64[np.ndarray, "S N"] = against - row
    return gains


def _finding(
    found: BoxMeasurements, claim: BoxClaim, seeds: tuple[int, ...], errors: Difference | None
) -> BoxFinding:
    one_by_one = []
    for seed in seeds:
        counts = gained_and_lost(found.missed(claim.row.key, seed), found.missed(claim.against.key, seed))
        one_by_one.append((seed, *counts, mcnemar(*counts)))
    return BoxFinding(claim, _verdict(seeds, errors), seeds, errors, tuple(one_by_one))


def _verdict(seeds: Sequence[int], errors: Difference | None) -> Verdict:
    if errors is None:
        return "not measured"
    if len(seeds) == 1:
        return "undecided"
    return "confirmed" if errors.low > 0 else "refuted" if errors.high < 0 else "undecided"
