"""The checks that decide whether a change may land do not pass by luck."""

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


BEST = "D-jitter@256,384,512 + E-jitter@256,384,512 both"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"A@256 dense": 3, "D@256 dense": 5, BEST: 3}, ""),
        ({"A@256 dense": 90, "D@256 dense": 5, BEST: 3}, "A@256 dense has a top-1 error of 90.00%"),
        ({"A@256 dense": 3, "D@256 dense": 5}, "both was not measured"),
    ],
)
def test_a_quickstart_whose_nets_did_not_learn_fails(tmp_path, wrong, complaint):
    rows = [{"key": key, "seeds": [{"top1_wrong": count}]} for key, count in wrong.items()]
    (tmp_path / "results.json").write_text(json.dumps({"tested_images": 100, "rows": rows}), encoding="utf-8")
    command = [sys.executable, ROOT / ".ci" / "quickstart.py", tmp_path / "results.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (complaint == "")
    assert complaint in done.stderr
