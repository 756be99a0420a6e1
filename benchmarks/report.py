"""Makes results/README.md from the results/*.json that benchmarks write.

    python benchmarks/report.py

A test fails while the page is not what the files say.
"""

from collections.abc import Mapping
from pathlib import Path

from claims import RESULTS, Machine, Record, read

PAGE = RESULTS / "README.md"

HEAD = """\
# Measured results

`python benchmarks/report.py` makes this page from the JSON files beside it; change those, not the page. Each file
is one run of one script in `benchmarks/` or `tests/parity/`, whose docstring says what is measured and how. Speeds
and memory are ratios of two sides measured in turn in one run; absolute ones drift from machine to machine and
from hour to hour. AMD's processors of family 26 are Zen 5, those of family 25 and model 17 are Zen 4.
"""

TAIL = """\
## Trainings

[Miniatures of A and D on imagenette](imagenette/README.md): recipes, logs, and errors by all protocols of testing.
"""


def page(records: Mapping[str, Record]) -> str:
    """The page, in Markdown.

    Args:
        records: by the name of their files.
    """
    parts = [HEAD, "## Claims\n", _claims(records), "## Observations\n"]
    parts += ["Measured, and nothing is claimed of them.\n", _observations(records)]
    parts += ["## How it was measured\n", _runs(records), TAIL]
    return "\n".join(parts)


def records(folder: Path = RESULTS) -> dict[str, Record]:
    """All records of a folder by the name of their files, in their order."""
    return {file.name: read(file) for file in sorted(folder.glob("*.json"))}


def _claims(records: Mapping[str, Record]) -> str:
    rows = ["| claim | measured | bound | holds | beside each | on | data |", "|---|--:|--:|---|---|---|---|"]
    for name, found in records.items():
        for claim in found.claims:
            ((kind, bound),) = claim.bound.items()
            holds = "yes" if claim.holds else "**no**"
            cells = [claim.claim, f"{claim.measured:.3g} {claim.unit}", f"{kind} {bound:g}", holds]
            rows.append(_row(*cells, _peers(claim.peers), _processor(found.machine), f"[{name}]({name})"))
    return "\n".join(rows) + "\n"


def _observations(records: Mapping[str, Record]) -> str:
    rows = ["| observation | measured | beside each | on | data |", "|---|--:|---|---|---|"]
    for name, found in records.items():
        for seen in found.observations:
            cells = [seen.observation, f"{seen.measured:.3g} {seen.unit}"]
            rows.append(_row(*cells, _peers(seen.peers), _processor(found.machine), f"[{name}]({name})"))
    return "\n".join(rows) + "\n"


def _runs(records: Mapping[str, Record]) -> str:
    rows = []
    for name, found in records.items():
        command = f"`{found.command}`" if found.command else "a command that was not kept"
        versions = ", ".join(f"{what} {number}" for what, number in found.versions.items() if number)
        facts = [_machine(found.machine), *([found.date] if found.date else []), *([versions] if versions else [])]
        rows.append(f"- [{name}]({name}): {command}; {'; '.join(facts)}.")
        rows += [f"  - {note}" for note in found.details.get("notes", [])]
    return "\n".join(rows) + "\n"


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


def _peers(peers: Mapping[str, float]) -> str:
    return "; ".join(f"{name}: {value:.3g}" for name, value in peers.items())


if __name__ == "__main__":
    PAGE.write_text(page(records()), encoding="utf-8")
