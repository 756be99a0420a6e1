"""What decides whether a change lands does not pass by luck."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_ci_refuses_parts_that_it_does_not_know():
    done = subprocess.run([ROOT / ".ci" / "run", "check", "tests"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no part 'tests'" in done.stderr
    assert "check test sanitize package quickstart" in done.stderr


@pytest.mark.parametrize(
    ("errors", "complaint"),
    [
        ({"A": 0.03, "D": 0.05, "A + D": 0.03}, ""),
        ({"A": 0.9, "D": 0.05, "A + D": 0.03}, "A has a top-1 error of 90.00%"),
        ({"A": 0.03, "D": float("nan"), "A + D": 0.03}, "D has a top-1 error of nan%"),
        ({"A": 0.03, "D": 0.05}, "tested were A, D"),
    ],
)
def test_a_quickstart_whose_nets_did_not_learn_fails(tmp_path, errors, complaint):
    rows = [{"net": net, "top-1 error": {"error": error}} for net, error in errors.items()]
    (tmp_path / "errors.json").write_text(json.dumps(rows), encoding="utf-8")
    command = [sys.executable, ROOT / ".ci" / "quickstart.py", tmp_path / "errors.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (complaint == "")
    assert complaint in done.stderr
