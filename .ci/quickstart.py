"""Check that the nets of `make quickstart` learned: compare the errors in its results.json with bounds."""

import json
import sys
from pathlib import Path

BOUNDS = {
    "A@256 dense": 0.10,
    "D@256 dense": 0.20,
    "D-jitter@256,384,512 + E-jitter@256,384,512 both": 0.20,
}
"""Largest top-1 error allowed for a row of the plan, in [0, 1]; guessing has 0.9."""


def main(file: Path) -> str | None:
    """Return one line per row that is missing or exceeds its bound; None if there are none."""
    results = json.loads(file.read_text(encoding="utf-8"))
    wrong = {row["key"]: row["seeds"][0]["top1_wrong"] / results["tested_images"] for row in results["rows"]}
    lines = [
        f"quickstart: {key} was not measured"
        if key not in wrong
        else f"quickstart: {key} has a top-1 error of {wrong[key]:.2%}; it must not exceed {bound:.0%}"
        for key, bound in BOUNDS.items()
        if not wrong.get(key, 1.0) <= bound
    ]
    return "\n".join(lines) or None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
