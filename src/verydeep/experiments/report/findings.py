"""The section on the paper's findings, each confirmed, refuted or undecided by the measurements."""

from collections import Counter
from collections.abc import Iterator, Sequence

from verydeep.experiments.findings import Border, Compared, Finding, Verdict
from verydeep.experiments.pages.document import Cell, Column, Grid, Paragraph, Section, Tone
from verydeep.experiments.paired import Difference

_TONES: dict[Verdict, Tone] = {"confirmed": "good", "refuted": "bad", "undecided": "open", "not measured": ""}
_NOTE = (
    "Each finding is decided by its own paired test at the 5% level, on the same images and over all seeds, "
    "against a control if there is one. Confirmed: the 95% interval of the difference lies on the paper's side "
    "(for normalisation: below a gain of half a point). Refuted: it lies on the other side. Undecided: neither, "
    "or only one seed. The p values are not corrected for multiple comparisons. Points are percentage points."
)
_FIGURES_NOTE = (
    "In the tables below, a positive reduction means that the first of the two has the lower error; points are "
    "percentage points. The log-loss, in nats, is more sensitive than the error but never decides. The smallest "
    "detectable difference is the true difference that this many images and seeds would find with 80% power."
)


def findings_section(findings: Sequence[Finding], border: Border) -> Section:
    """Make the section with the verdict on each claim, and the figures behind it."""
    columns = (Column("the paper's finding", False), Column("verdict", False), Column("evidence here", False))
    rows = tuple(
        (
            f"{each.claim.says} (Sect. {each.claim.section})",
            Cell(each.verdict, strong=True, tone=_TONES[each.verdict]),
            _sentence_case(each.says.removeprefix(each.verdict).removeprefix(":").strip()),
        )
        for each in findings
    )
    blocks = (
        Paragraph(_NOTE),
        Grid("", columns, rows),
        Paragraph(f"{_sentence_case(border.says)}."),
    )
    figures = (Paragraph(_FIGURES_NOTE), _figures(findings, border), _seeds(findings, border))
    compared = any(True for _ in _all(findings, border))
    return Section("The paper's findings", (*blocks, *figures) if compared else blocks)


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def verdicts(findings: Sequence[Finding]) -> str:
    """Count the findings by verdict, in words."""
    counts = Counter(each.verdict for each in findings)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in _TONES if counts[verdict])


def _figures(findings: Sequence[Finding], border: Border) -> Grid:
    columns = (
        Column("claim", False),
        Column("comparison", False),
        Column("decides"),
        Column("seeds"),
        Column("reduction of top-1 error, points"),
        Column("95% interval"),
        Column("p"),
        Column("reduction in the paper, points"),
        Column("reduction of log-loss, nats"),
        Column("95% interval"),
        Column("smallest detectable difference, points (80% power)"),
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
        Column("compared with", False),
        Column("seed"),
        Column("images only the row gets right"),
        Column("images only the other gets right"),
        Column("p"),
    )
    pairs = {(pair.row, pair.against): pair for _, one, _ in _all(findings, border) for pair in one.pairs}
    rows = tuple(
        (pair.row, pair.against, str(one.seed), str(one.gained), str(one.lost), _p(one.p))
        for pair in pairs.values()
        for one in pair.seeds
    )
    return Grid("Each seed alone: McNemar's exact test", columns, rows, folded=True)


def _all(findings: Sequence[Finding], border: Border) -> Iterator[tuple[str, Compared, bool]]:
    for each in findings:
        yield from ((each.claim.name, one, True) for one in each.decided_by)
        yield from ((each.claim.name, one, False) for one in each.also)
    yield from (("padding", one, False) for one in border.compared)


def _words(one: Compared) -> str:
    return f"{one.contrast.what} vs {one.contrast.than}, {one.contrast.tested}"


def _difference(found: Difference, factor: int, digits: int) -> tuple[str, str]:
    mean, low, high = (f"{factor * value:.{digits}f}" for value in (found.mean, found.low, found.high))
    return mean, f"{low} to {high}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"
