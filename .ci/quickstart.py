"""Whether the nets of `make quickstart` learned: compares what `verydeep test --json` wrote with bounds."""

import json
import sys
from pathlib import Path

BOUNDS = {"A": 0.08, "D": 0.12, "A + D": 0.08}
"""Top-1 errors. Seeds 0 to 5 gave A 0.01 to 0.04, D 0.03 to 0.06, A + D 0.02 to 0.04; guessing has 0.9."""


def main(file: Path) -> str | None:
    """A line about each net that is worse than its bound, or None."""
    measured = {row["net"]: row["top-1 error"]["error"] for row in json.loads(file.read_text(encoding="utf-8"))}
    if measured.keys() != BOUNDS.keys():
        return f"quickstart: tested were {', '.join(measured)}, not {', '.join(BOUNDS)}"
    lines = [
        f"quickstart: {net} has a top-1 error of {measured[net]:.2%}; it must not exceed {bound:.0%}"
        for net, bound in BOUNDS.items()
        if not measured[net] <= bound
    ]
    return "\n".join(lines) or None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
