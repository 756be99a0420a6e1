"""Check that the pages of each experiment in results/ match the data next to them."""

import sys
from collections.abc import Sequence
from pathlib import Path

from verydeep.errors import UserError
from verydeep.experiments.localisation.report import check_box_report
from verydeep.experiments.localisation.results import RESULTS as BOX_RESULTS
from verydeep.experiments.report import check_report
from verydeep.experiments.results import RESULTS

ROOT = Path(__file__).parents[1]


def main(folders: Sequence[Path]) -> str | None:
    """Return one line per page that does not match, and per folder that cannot be read; None if there are none."""
    lines = []
    for folder in folders:
        try:
            stale = check_report(folder) if (folder / RESULTS).exists() else ()
            stale += check_box_report(folder)
        except UserError as error:
            lines.append(f"pages: {error}")
        else:
            remedy = f"make it with: verydeep report {folder}"
            lines += [f"pages: {path} does not match its data; {remedy}" for path in stale]
    return "\n".join(lines) or None


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    found = {file.parent for name in (RESULTS, BOX_RESULTS) for file in (ROOT / "results").glob(f"**/{name}")}
    sys.exit(main(given or sorted(found)))
