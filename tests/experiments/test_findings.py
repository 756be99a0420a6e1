"""Verdicts on the paper's findings, from synthetic outcomes with a known truth."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from verydeep.experiments.claims import BORDER, CLAIMS
from verydeep.experiments.findings import check_claims
from verydeep.experiments.plan import TABLES, Row, measured_rows
from verydeep.experiments.results import Outcomes

IMAGES = 400
ROWS = measured_rows(TABLES.values())
KEYS = {row.key for row in ROWS}
STEP = 0.08
NOISE = 0.2


def world(error: Callable[[Row], float], seeds=(0, 1, 2), rows=ROWS, images=IMAGES) -> Outcomes:
    """Each row has about this error, mostly on the same images."""
    rng = np.random.default_rng(0)
    outcomes = Outcomes(rng.integers(0, 10, images), tuple(map(str, range(images))))
    difficulty = rng.normal(size=images)
    for row in rows:
        for seed in seeds:
            doubt = difficulty + NOISE * rng.normal(size=images)
            wrong = doubt > stats.norm.isf(error(row), scale=np.hypot(1, NOISE))
            outcomes.rank[row.key, seed] = wrong.astype(np.uint16)
            outcomes.loss[row.key, seed] = np.logaddexp(0, doubt - stats.norm.isf(error(row))).astype(np.float16)
    return outcomes


def gains(row: Row) -> int:
    """Number of the paper's improvements that a row has."""
    name = row.nets[0].training
    by_net = {"A": 0, "A-LRN": -1, "A-longer": 0, "B": 1, "B-random": 1, "B-5x5": 0}
    net = by_net.get(name, {"C": 2, "D": 3, "E": 3}.get(name[0], 0))
    several, both, two = len(row.nets[0].scales) > 1, row.method == "both", len(row.nets) > 1
    return net + name.endswith("-jitter") + several + both + two


def as_in_the_paper(row: Row) -> float:
    return 0.7 - STEP * gains(row)


def the_other_way_round(row: Row) -> float:
    return 0.3 + STEP * gains(row)


def verdicts(outcomes: Outcomes) -> dict[str, str]:
    return {finding.claim.name: finding.verdict for finding in check_claims(outcomes).findings}


def changed(outcomes: Outcomes, **rows_like: str) -> Outcomes:
    """Outcomes in which some rows are replaced by others."""
    rank, loss = dict(outcomes.rank), dict(outcomes.loss)
    for row, like in rows_like.items():
        for seed in outcomes.measured(like):
            rank[row, seed], loss[row, seed] = rank[like, seed], loss[like, seed]
    return replace(outcomes, rank=rank, loss=loss)


@pytest.fixture(scope="module")
def paper() -> Outcomes:
    return world(as_in_the_paper)


@pytest.fixture(scope="module")
def found(paper):
    return {finding.claim.name: finding for finding in check_claims(paper).findings}


def finding_of(outcomes: Outcomes, name: str):
    return next(finding for finding in check_claims(outcomes).findings if finding.claim.name == name)


# The claims


def test_every_row_that_a_claim_names_is_in_the_plan():
    contrasts = [one for claim in CLAIMS.values() for one in claim.contrasts + claim.controlled + claim.also]
    pairs = [pair for contrast in (*contrasts, *BORDER) for pair in contrast.pairs]
    assert {key for pair in pairs for key in (pair.row, pair.against)} <= KEYS
    assert all(pair.row != pair.against for pair in pairs)


def test_the_claims_are_the_papers_nine():
    assert list(CLAIMS) == [
        "normalisation",
        "depth",
        "non-linearity",
        "context",
        "jittering",
        "scales",
        "complementary",
        "fusion",
        "small-filters",
    ]


def test_the_papers_own_contrasts_are_rows_that_the_paper_has():
    theirs = {row.key for table in TABLES.values() if not table.control for row in table.rows}
    pairs = [pair for claim in CLAIMS.values() for one in claim.contrasts for pair in one.pairs]
    assert {key for pair in pairs for key in (pair.row, pair.against)} <= theirs


def test_several_scales_are_all_of_table_4():
    (contrast,) = CLAIMS["scales"].contrasts
    assert [pair.row for pair in contrast.pairs] == [row.key for row in TABLES["table4"].rows]


def test_the_papers_own_differences_stand_beside(found):
    assert found["non-linearity"].decided_by[0].printed == pytest.approx(0.006)  # 28.7 to 28.1
    assert found["fusion"].decided_by[0].printed == pytest.approx(0.007)  # 24.4 to 23.7
    assert found["normalisation"].decided_by[0].printed == pytest.approx(-0.001)  # 29.6 to 29.7
    assert found["depth"].decided_by[0].printed is None  # there is no control in the paper
    assert found["depth"].also[0].printed == pytest.approx(0.0245)  # 29.6 to 27.0 and 27.3


# Verdicts


def test_what_the_paper_found_is_confirmed_where_it_is_so(found):
    assert {name: finding.verdict for name, finding in found.items()} == dict.fromkeys(CLAIMS, "confirmed")


def test_what_the_paper_found_is_refuted_where_the_contrary_is_so():
    assert verdicts(world(the_other_way_round)) == dict.fromkeys(CLAIMS, "refuted")


def test_where_nothing_differs_nothing_is_decided():
    assert verdicts(world(lambda _: 0.5)) == dict.fromkeys(CLAIMS, "undecided")


def test_one_seed_decides_nothing():
    for truth in (as_in_the_paper, the_other_way_round):
        for finding in check_claims(world(truth, seeds=(7,))).findings:
            assert finding.verdict == "undecided"
            assert "one seed, which decides nothing" in finding.says.lower()
            assert finding.decided_by[0].seeds == (7,)


def test_what_is_not_measured_says_what_is_missing():
    found = {
        finding.claim.name: finding
        for finding in check_claims(world(as_in_the_paper, rows=TABLES["table3"].rows)).findings
    }
    measured = {name for name, finding in found.items() if finding.verdict != "not measured"}
    assert measured == {"normalisation", "depth", "non-linearity", "context", "jittering"}
    assert found["small-filters"].missing == ("B@256 centre-crop", "B-5x5@256 centre-crop")
    assert found["small-filters"].says == "not measured: missing B@256 centre-crop, B-5x5@256 centre-crop"
    nothing = check_claims(Outcomes(np.zeros(3, np.int64), ("a", "b", "c"))).findings
    assert {finding.verdict for finding in nothing} == {"not measured"}
    assert all(finding.missing and not finding.decided_by for finding in nothing)


def test_only_seeds_that_have_measured_all_rows_count(paper):
    rank = {key: value for key, value in paper.rank.items() if key != ("B@256 dense", 1)}
    found = finding_of(replace(paper, rank=rank), "non-linearity")
    assert found.decided_by[0].seeds == (0, 2)
    apart = {key: value for key, value in paper.rank.items() if (key[0] == "B@256 dense") == (key[1] == 1)}
    found = finding_of(replace(paper, rank=apart), "non-linearity")
    assert (found.verdict, found.missing) == ("not measured", ())
    assert found.says == "not measured: no seed has measured all rows that it compares"


@pytest.mark.parametrize(("images", "verdict"), [(200, "undecided"), (800, "confirmed")])
def test_as_many_errors_confirm_that_normalisation_does_not_help_if_there_are_enough_images(images, verdict):
    """No difference on 200 images still allows a gain of more than half a point; on 800 it does not."""
    rows = [row for row in TABLES["table3"].rows if row.nets[0].training in {"A", "A-LRN"}]
    equal = changed(world(as_in_the_paper, rows=rows, images=images), **{"A-LRN@256 dense": "A@256 dense"})
    found = finding_of(equal, "normalisation")
    assert found.verdict == verdict
    assert (found.decided_by[0].errors.high < found.claim.margin) == (verdict == "confirmed")


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("depth", {"A-longer@256 dense": "D@256 dense"}),
        ("small-filters", {"B-5x5@256 centre-crop": "B-random@256 centre-crop"}),
    ],
)
def test_controls_decide_and_the_papers_contrast_is_shown(paper, found, name, like):
    """If the control were as good, the gain would be due to what both have in common."""
    assert found[name].by_control
    changes = finding_of(changed(paper, **like), name)
    assert changes.verdict != "confirmed"
    assert "compared with a control" in changes.says
    shown = {one.contrast: one for one in changes.also}
    assert shown[changes.claim.contrasts[0]].seeds == (0, 1, 2)


def test_without_its_control_a_claim_says_so(paper):
    rank = {key: value for key, value in paper.rank.items() if "longer" not in key[0]}
    found = finding_of(replace(paper, rank=rank), "depth")
    assert (found.verdict, found.by_control) == ("confirmed", False)
    assert "its control is not measured" in found.says


@pytest.mark.parametrize("other", ["dense", "multi-crop"])
def test_complementary_has_to_be_better_than_each(paper, other):
    like = {f"{net}-jitter@256,384,512 {other}": f"{net}-jitter@256,384,512 both" for net in "DE"}
    assert finding_of(changed(paper, **like), "complementary").verdict == "undecided"


@pytest.mark.parametrize("net", "DE")
def test_two_nets_have_to_be_better_than_the_better_one(paper, net):
    like = {f"{net}-jitter@256,384,512 both": "D-jitter@256,384,512 + E-jitter@256,384,512 both"}
    assert finding_of(changed(paper, **like), "fusion").verdict == "undecided"


# Figures


def test_figures_are_those_of_the_outcomes(paper, found):
    (one,) = found["context"].decided_by
    d, c = paper.wrong("D@256 dense", (0, 1, 2)), paper.wrong("C@256 dense", (0, 1, 2))
    assert one.errors.mean == pytest.approx((c - d).mean())
    assert one.errors.by_seed == pytest.approx((c - d).mean(1))
    loss = paper.log_loss("C@256 dense", (0, 1, 2)) - paper.log_loss("D@256 dense", (0, 1, 2))
    assert one.log_loss.mean == pytest.approx(loss.mean(), rel=1e-4)
    (pair,) = one.pairs
    for seed, test in enumerate(pair.seeds):
        assert (test.seed, test.gained, test.lost) == (seed, (c - d == 1)[seed].sum(), (c - d == -1)[seed].sum())
        expected = stats.binomtest(test.gained, test.gained + test.lost).pvalue
        assert test.p == pytest.approx(expected)


def test_a_sentence_has_the_verdict_the_figure_and_the_power(found):
    (one,) = found["context"].decided_by
    low, mean, high, power = (
        f"{100 * value:.1f}" for value in (one.errors.low, one.errors.mean, one.errors.high, one.errors.detectable)
    )
    assert found["context"].says == (
        f"confirmed: D vs C, dense testing: top-1 error {mean} points lower (95% interval {low} to {high}, "
        f"p = {one.errors.p:.2g}). 3 seeds; smallest detectable difference {power} points (80% power)."
    )


def test_a_sentence_turns_a_loss_into_more_errors():
    found = finding_of(world(the_other_way_round), "context")
    (one,) = found.decided_by
    assert one.errors.high < 0
    figure = re.match(
        r"refuted: D vs C, dense testing: top-1 error ([\d.]+) points higher \(95% interval (.*) to (.*), p",
        found.says,
    )
    assert [float(number) for number in figure.groups()] == pytest.approx(
        [-100 * one.errors.mean, -100 * one.errors.high, -100 * one.errors.low], abs=0.051
    )


def test_findings_are_data_and_repeatable(paper, found):
    again = check_claims(paper).findings
    assert again == tuple(found.values())
    assert json.loads(json.dumps([asdict(finding) for finding in again], allow_nan=False))


# Dense testing against its own windows


def test_dense_testing_that_loses_against_its_own_windows_is_said(paper):
    assert not check_claims(paper).border.losing  # both have the same error here
    worse = world(lambda row: 0.5 - STEP * (row.method == "windows"))
    found = check_claims(worse).border
    assert found.losing == ("A", "A-longer", "D", "E")
    assert "of A, A-longer, D and E has a higher error" in found.says
    assert [one.contrast for one in found.compared] == list(BORDER)
    assert all(re.search(rf"{net} \d+\.\d \[\d", found.says) for net in ("A", "A-longer", "D", "E"))
    nothing = check_claims(Outcomes(np.zeros(1, np.int64), ("a",))).border
    assert (nothing.losing, nothing.compared) == ((), ())
    assert nothing.says.startswith("not measured")


def test_depth_that_dense_testing_refutes_is_undecided_where_dense_testing_loses_the_padding():
    def shallow_is_better(row):
        return 0.4 + STEP * (row.nets[0].training in ("D", "E"))

    def and_windows_better_still(row):
        return shallow_is_better(row) - STEP * (row.method == "windows")

    assert verdicts(world(shallow_is_better))["depth"] == "refuted"
    found = finding_of(world(and_windows_better_still), "depth")
    assert found.verdict == "undecided"
    assert "cannot decide this at this size" in found.says


def test_one_seed_does_not_show_that_dense_testing_loses():
    worse = world(lambda row: 0.5 - STEP * (row.method == "windows"), seeds=(0,))
    assert check_claims(worse).border.losing == ()
