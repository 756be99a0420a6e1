"""results/ contains the output of the benchmarks, and the page that is made from it."""

import re

import pytest

import report
from claims import ROOT, Claim, Machine, Observation, Record, read

FILES = sorted((ROOT / "results").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_result_has_the_form_of_a_benchmark(file):
    found = read(file)
    assert found.claims or found.observations
    assert "--smoke" not in (found.command or "")
    assert not re.search(r"/(home|root|work|tmp)/", file.read_text())


def test_every_claim_in_the_results_holds():
    claims = [claim for file in FILES for claim in read(file).claims]
    assert len(claims) >= 20
    assert [claim.claim for claim in claims if not claim.holds] == []


def test_the_page_of_results_is_what_their_files_say():
    stale = "results/README.md does not match its files; make it with: python benchmarks/report.py"
    assert report.PAGE.read_text(encoding="utf-8") == report.page(report.records()), stale


def test_the_page_says_what_holds_and_what_does_not():
    claims = [
        Claim("D beside ncnn", 0.442, "of its time", {"at most": 0.5}, {"ncnn": 0.442}),
        Claim("two ranks", 1.7, "times", {"at least": 1.8}),
    ]
    known = Machine("AMD EPYC", 26, 2, 2, 8.0, "Linux x86_64")
    seen = [Observation("two apart", 1.917, "times")]
    details = {"notes": ["The machine was busy."]}
    found = Record(
        claims, seen, "python benchmarks/x.py", known, {"ncnn": "1.0", "numpy": None}, "2026-11-26", details
    )
    page = report.page({"x.json": found})
    assert "## [x.json](x.json)\n" in page
    assert "| D beside ncnn | 0.442 of its time | at most 0.5 | yes |\n" in page
    assert "| two ranks | 1.7 times | at least 1.8 | **no** |\n" in page
    assert "| two apart | 1.92 times |\n" in page
    assert "| case | of its time |\n|---|--:|\n| ncnn | 0.442 |\n" in page
    assert "- Command: `python benchmarks/x.py`\n" in page
    assert "- Machine: AMD EPYC (family 26, model 2), 2 cores, 8 GiB, Linux x86_64\n" in page
    assert "- Date: 2026-11-26\n- Versions: ncnn 1.0\n- The machine was busy.\n" in page


@pytest.mark.parametrize("page", ["README.md", "imagenette/README.md", "fine-tuning/README.md"])
def test_what_the_pages_link_to_is_there(page):
    file = ROOT / "results" / page
    links = re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (file.parent / link).exists()] == []
