"""Make results/README.md from the results/*.json that benchmarks write.

    python benchmarks/report.py

A test fails if the page does not match the files.
"""

from collections.abc import Mapping
from pathlib import Path

from claims import RESULTS, Machine, Record, read

PAGE = RESULTS / "README.md"

HEAD = """\
# Measured results

`python benchmarks/report.py` makes this page from the JSON files next to it. Each file is one run of one script in
`benchmarks/` or `tests/parity/`, whose docstring says what is measured and how. Each section below is one file.

- A **claim** has a bound that a test checks. An **observation** was measured, but nothing is claimed about it.
- Speeds and memory are ratios of two sides that were measured in turn, in the same run. Absolute values drift from
  machine to machine and from hour to hour.
- AMD's processors of family 26 are Zen 5; those of family 25 and model 17 are Zen 4.
"""

TAIL = """\
## Trainings

- [The paper's experiments on imagenette, in miniature](imagenette/README.md): 44 trainings, Tables 3 to 7, and the
  paper's findings.
- [The same at a crop of 224, in nine minutes on a GPU](imagenette-gpu/README.md): one seed, 14 of 22 trainings.
- [Fine-tuning the authors' convolutions on imagenette](fine-tuning/README.md).
- [Localisation on two small data sets](localisation/README.md), in miniature: Tables 8 to 10, one seed.
- [Transfer to half of Caltech-101](transfer/README.md).
- [Transfer of the authors' convolutions and of the miniatures to half of Caltech-101](transfer/README.md).
"""


def page(records: Mapping[str, Record]) -> str:
    """Return the page, in Markdown.

    Args:
        records: by file name.
    """
    return "\n".join([HEAD, *(_section(name, found) for name, found in records.items()), TAIL])


def records(folder: Path = RESULTS) -> dict[str, Record]:
    """Return all records of a folder by file name, in alphabetical order."""
    return {file.name: read(file) for file in sorted(folder.glob("*.json"))}


def _section(name: str, found: Record) -> str:
    """Return the section of a file: how it was measured, the numbers, and those of each peer."""
    rows = ["| claim | measured | bound | holds |", "|---|--:|--:|---|"] if found.claims else []
    for claim in found.claims:
        ((kind, bound),) = claim.bound.items()
        holds = "yes" if claim.holds else "**no**"
        rows.append(_row(claim.claim, f"{claim.measured:.3g} {claim.unit}", f"{kind} {bound:g}", holds))
    if found.claims and found.observations:
        rows.append("")
    rows += ["| observation | measured |", "|---|--:|"] if found.observations else []
    rows += [_row(seen.observation, f"{seen.measured:.3g} {seen.unit}") for seen in found.observations]
    peers = [_peers(claim.claim, claim.unit, claim.peers) for claim in found.claims]
    peers += [_peers(seen.observation, seen.unit, seen.peers) for seen in found.observations]
    table = "\n".join(rows) + "\n"
    return "\n".join([f"## [{name}]({name})\n", _run(found), table, *(each for each in peers if each)])


def _run(found: Record) -> str:
    """Return how it was measured, as a list."""
    lines = [f"- Command: `{found.command}`" if found.command else "- Command: not kept"]
    lines.append(f"- Machine: {_machine(found.machine)}")
    lines += [f"- Date: {found.date}"] if found.date else []
    versions = ", ".join(f"{what} {number}" for what, number in found.versions.items() if number)
    lines += [f"- Versions: {versions}"] if versions else []
    lines += [f"- {note}" for note in found.details.get("notes", [])]
    return "\n".join(lines) + "\n"


def _processor(machine: Machine) -> str:
    known = {"family": machine.family, "model": machine.model}
    numbers = ", ".join(f"{what} {number}" for what, number in known.items() if number is not None)
    return (machine.processor or "a processor not known") + (f" ({numbers})" if numbers else "")


def _machine(machine: Machine) -> str:
    facts = [_processor(machine)]
    facts += [f"{machine.cores} cores"] if machine.cores else []
    facts += [f"{machine.memory_gib:g} GiB"] if machine.memory_gib else []
    facts += [machine.system] if machine.system else []
    return ", ".join(facts)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _peers(what: str, unit: str, peers: Mapping[str, float]) -> str:
    """Return a table of the peers, or of the other cases of the same measurement; empty if there are none."""
    if not peers:
        return ""
    rows = [f'All cases of "{what}":\n', f"| case | {unit} |", "|---|--:|"]
    return "\n".join(rows + [_row(name, f"{value:.3g}") for name, value in peers.items()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(records()), encoding="utf-8")
