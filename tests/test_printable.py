"""Text from outside is shown as one line, and the terminal does not interpret it."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verydeep.printable import decoded, printable

NAMES = st.binary(min_size=1).map(lambda name: name.decode("utf-8", "surrogateescape"))
"""File names as Python represents them on Linux: any bytes."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("chat noir, 写真　2020, كلب, 🐈‍⬛", "chat noir, 写真　2020, كلب, 🐈‍⬛"),
        ("[old] :cat: <b>", "[old] :cat: <b>"),
        (r"C:\new", r"C:\new"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("cat\u202egpj.exe", r"cat\u202egpj.exe"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("ze\u200bro", r"ze\u200bro"),
    ],
)
def test_what_a_terminal_would_obey_is_an_escape_and_all_else_stays(text, shown):
    assert printable(text) == shown


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text(st.characters(categories=["C", "Z"])) | NAMES)
def test_it_is_one_line_of_characters_that_every_output_takes(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    bad = {"Cc", "Cs", "Zl", "Zp"}
    assert not any(unicodedata.category(character) in bad for character in shown)
    assert printable(shown) == shown


@settings(max_examples=100, deadline=None)
@given(NAMES)
def test_a_decoded_name_is_unicode_and_the_same_if_it_was(name):
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        assert decoded(name) != name
    else:
        assert decoded(name) == name
    decoded(name).encode("utf-8")
