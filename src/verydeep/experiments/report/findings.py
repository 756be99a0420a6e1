"""The paper's findings, each confirmed, refuted or undecided by what was measured."""

from collections import Counter
from collections.abc import Iterator, Sequence

from verydeep.experiments.findings import Border, Compared, Finding, Verdict
from verydeep.experiments.pages.document import Cell, Column, Grid, Paragraph, Section, Tone
from verydeep.experiments.paired import Difference

_TONES: dict[Verdict, Tone] = {"confirmed": "good", "refuted": "bad", "undecided": "open", "not measured": ""}
_NOTE = (
    "Each claim is decided by a paired test at 5%, on the same images and over all seeds; where there is a "
    "control, against that. One seed decides nothing."
)
_FIGURES_NOTE = (
    "Points are percent of the images; intervals are at 95%. The log-loss is finer than errors and decides "
    "nothing. The last column is the smallest difference that these images and seeds would show four times out of "
    "five."
)


def findings_section(findings: Sequence[Finding], border: Border) -> Section:
    """The claims with their verdicts, and the figures behind them."""
    columns = (Column("the paper", False), Column("verdict", False), Column("here", False))
    rows = tuple(
        (
            f"{each.claim.says} (Sect. {each.claim.section})",
            Cell(each.verdict, strong=True, tone=_TONES[each.verdict]),
            each.says.removeprefix(each.verdict).removeprefix(":").strip(),
        )
        for each in findings
    )
    blocks = (
        Paragraph(_NOTE),
        Grid("", columns, rows),
        Paragraph(f"{border.says[:1].upper()}{border.says[1:]}."),
    )
    figures = (Paragraph(_FIGURES_NOTE), _figures(findings, border), _seeds(findings, border))
    compared = any(True for _ in _all(findings, border))
    return Section("The paper's findings", (*blocks, *figures) if compared else blocks)


def verdicts(findings: Sequence[Finding]) -> str:
    """How many findings have which verdict, for people."""
    counts = Counter(each.verdict for each in findings)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in _TONES if counts[verdict])


def _figures(findings: Sequence[Finding], border: Border) -> Grid:
    columns = (
        Column("claim", False),
        Column("compared", False),
        Column("decides", False),
        Column("seeds"),
        Column("fewer errors, points"),
        Column("95% interval"),
        Column("p"),
        Column("the paper, points"),
        Column("log-loss lower by"),
        Column("95% interval"),
        Column("smallest detectable, points (80% power)"),
    )
    rows = tuple(
        (
            claim,
            _words(one),
            "yes" if decides else "",
            str(len(one.seeds)),
            *_difference(one.errors, 100, 2),
            _p(one.errors.p),
            "" if one.printed is None else f"{100 * one.printed:.1f}",
            *_difference(one.log_loss, 1, 3),
            f"{100 * one.errors.detectable:.2f}",
        )
        for claim, one, decides in _all(findings, border)
    )
    return Grid("All comparisons", columns, rows, folded=True)


def _seeds(findings: Sequence[Finding], border: Border) -> Grid:
    columns = (
        Column("row", False),
        Column("against", False),
        Column("seed"),
        Column("right only in row"),
        Column("right only in the other"),
        Column("p"),
    )
    pairs = {(pair.row, pair.against): pair for _, one, _ in _all(findings, border) for pair in one.pairs}
    rows = tuple(
        (pair.row, pair.against, str(one.seed), str(one.gained), str(one.lost), _p(one.p))
        for pair in pairs.values()
        for one in pair.seeds
    )
    return Grid("Each seed alone, by McNemar's exact test", columns, rows, folded=True)


def _all(findings: Sequence[Finding], border: Border) -> Iterator[tuple[str, Compared, bool]]:
    for each in findings:
        yield from ((each.claim.name, one, True) for one in each.decided_by)
        yield from ((each.claim.name, one, False) for one in each.also)
    yield from (("padding", one, False) for one in border.compared)


def _words(one: Compared) -> str:
    return f"with {one.contrast.what} than with {one.contrast.than}, {one.contrast.tested}"


def _difference(found: Difference, factor: int, digits: int) -> tuple[str, str]:
    mean, low, high = (f"{factor * value:.{digits}f}" for value in (found.mean, found.low, found.high))
    return mean, f"{low} to {high}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"
