"""Files of an experiment are read back, or refused by name."""

import json

import pytest
from safetensors.numpy import load_file, save_file

from made_up import made_up, write
from synthetic import refusal
from verydeep.experiments.results import (
    OUTCOMES,
    RESULTS,
    TIMES,
    read_outcomes,
    read_results,
    read_times,
    write_json,
)

READ = {RESULTS: read_results, TIMES: read_times, OUTCOMES: read_outcomes}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, *made_up())
    return tmp_path


@pytest.mark.parametrize("name", READ)
def test_a_digit_that_has_changed_is_found(folder, name):
    whole = (folder / name).read_bytes()
    at = whole.rindex(b"1") if name != OUTCOMES else len(whole) - 1
    (folder / name).write_bytes(whole[:at] + b"7" + whole[at + 1 :])
    message = refusal(READ[name], folder)
    assert name in message
    assert "is damaged" in message


def test_results_without_a_digest_are_read(folder):
    """As written by version 0.3."""
    expected = read_results(folder)
    fields = json.loads((folder / RESULTS).read_text())
    del fields["sha256"]
    (folder / RESULTS).write_text(json.dumps(fields))
    assert read_results(folder) == expected
    save_file(load_file(folder / OUTCOMES), folder / OUTCOMES)
    read_outcomes(folder)


def test_the_layout_of_results_does_not_count(folder):
    expected = read_results(folder)
    fields = json.loads((folder / RESULTS).read_text())
    (folder / RESULTS).write_text(json.dumps(dict(reversed(fields.items())), indent=3))
    assert read_results(folder) == expected
    before = (folder / TIMES).read_bytes()
    write_json(read_times(folder), folder / TIMES)
    assert (folder / TIMES).read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "5", "[" * 100_000, '{"format": ' + "1" * 5000 + "}", "{}"])
@pytest.mark.parametrize("name", [RESULTS, TIMES])
def test_what_is_not_results_is_one_line(folder, name, content):
    (folder / name).write_text(content)
    assert name in refusal(READ[name], folder)
