"""Photographs named by files, folders, patterns and lists on standard input."""

import os
from pathlib import Path

import pytest

from synthetic import refusal, touch
from verydeep.datasets.listing import listed


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Return a function that lists arguments in a folder of photographs, with a given standard input."""
    monkeypatch.chdir(tmp_path)
    shown = "b.jpg", "a.PNG", "deep/er/c.webp", "deep/d.jpeg", "notes.txt", "x[1].jpg"
    for name in (*shown, ".hidden.jpg", ".git/e.jpg"):
        touch(Path(name))

    def names(*arguments, standard_input=b""):
        return [str(path) for path in listed(arguments, lambda: standard_input)]

    return names


def test_the_order_is_that_of_the_arguments(found):
    assert found("deep", "b.jpg", "a.PNG", "b.jpg") == [
        "deep/d.jpeg", "deep/er/c.webp", "b.jpg", "a.PNG", "b.jpg"
    ]  # fmt: skip


def test_a_folder_is_searched_without_what_is_hidden_or_no_photograph(found):
    assert found(".") == ["a.PNG", "b.jpg", "x[1].jpg", "deep/d.jpeg", "deep/er/c.webp"]


def test_links_to_folders_are_not_followed_so_that_none_leads_in_a_circle(found):
    os.symlink("..", "deep/up")
    assert found("deep") == ["deep/d.jpeg", "deep/er/c.webp"]


def test_patterns_match_in_sorted_order_and_names_come_before_patterns(found):
    assert found("*.jpg") == ["b.jpg", "x[1].jpg"]
    assert found("**/*.webp") == ["deep/er/c.webp"]
    assert found("dee?") == ["deep/d.jpeg", "deep/er/c.webp"]
    assert found("x[1].jpg") == ["x[1].jpg"]
    assert found("*.gif", "gone.jpg", "notes.txt") == ["*.gif", "gone.jpg", "notes.txt"]


def test_standard_input_lists_lines_or_what_find_print0_writes(found):
    assert found("-", "b.jpg", standard_input=b"a.PNG\ndeep\r\n\nx[1].jpg") == [
        "a.PNG", "deep/d.jpeg", "deep/er/c.webp", "x[1].jpg", "b.jpg"
    ]  # fmt: skip
    assert found("-", standard_input=b"two\nlines.jpg\0\xff.jpg\0") == ["two\nlines.jpg", os.fsdecode(b"\xff.jpg")]


def test_nothing_to_read_is_refused(found):
    os.mkdir("empty")
    assert "empty: no photographs in this folder" in refusal(found, "empty")
    assert "no photographs were given" in refusal(found, "-")
    assert "standard input (-) is given twice" in refusal(found, "-", "-")
