"""Results on standard output: complete, or an error of one line; tables that fit, with unbroken numbers."""

import io
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from verydeep import terminal
from verydeep.errors import UserError
from verydeep.terminal import column_widths, open_standard_streams, write, write_json, write_line, write_table


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(terminal, "PIPE_WIDTH", 80)


def test_text_from_outside_is_neither_markup_nor_an_escape_sequence(capsys):
    write_table("[old] :cat:", [{"class": "[red]cat\x1b[2J", "image": ":dog:\n\udce9"}])
    write_line("a \x1b[2J")
    out = capsys.readouterr().out
    assert "[old] :cat:" in out
    assert r"[red]cat\x1b[2J" in out
    assert r":dog:\n\xe9" in out
    assert out.endswith("a \\x1b[2J\n")


def test_numbers_are_never_broken_and_what_is_text_is_broken_at_words(narrow, capsys):
    rows = [{"net": "D", "layers": "3-64 3-64 | " * 9, "a long heading of it": 19_632_062_464, "path": "x" * 100}]
    write_table("title", rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert "19,632,062,464" in "".join(lines)
    assert not any(line.rstrip() != line for line in lines)
    assert any("3-64 3-64" in line for line in lines)


@pytest.mark.parametrize("total", [20, 40, 80])
@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text("ab 写", max_size=60), min_size=1, max_size=3), min_size=1, max_size=5))
def test_columns_fit_if_they_can(total, cells):
    columns = {chr(97 + at): column for at, column in enumerate(cells)}
    widths = column_widths(columns, ["a"], total)
    longest = max(map(cell_len, columns["a"]))
    assert widths["a"] == max(1, longest)
    rest = 2 * (len(columns) - 1)
    assert sum(widths.values()) + rest <= max(total, widths["a"] + len(columns) - 1 + rest)
    wanted = {name: max(1, *map(cell_len, column)) for name, column in columns.items()}
    if sum(wanted.values()) + rest <= total:
        assert widths == wanted


def test_json_is_ascii_from_which_names_come_back(capsys):
    write_json({"image": "caf\udce9 \x1b 写"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert r"caf\udce9" in out


def test_an_output_without_a_character_gets_its_escape(monkeypatch):
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, "ascii"))
    open_standard_streams()
    write_table("photographs", [{"class": "写"}])
    write_line("caf\u00e9")
    assert rb"\u5199" in held.getvalue()
    assert rb"caf\xe9" in held.getvalue()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("result", [lambda: write("result\n"), lambda: write_table("title", [{"net": "A"}])])
def test_a_result_that_cannot_be_written_is_said(monkeypatch, result):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(UserError, match="cannot write the result to standard output: No space left"):
            result()


def test_a_reader_that_has_gone_ends_the_program_in_silence(monkeypatch):
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as left:
            write("result\n")
    assert left.value.code == 141


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes streams")
@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_no_file_takes_the_number_of_a_closed_stream(closed, tmp_path):
    program = (
        "import os; from verydeep import terminal; terminal.open_standard_streams(); "
        f"open({str(tmp_path / 'number')!r}, 'w').write(str(os.open(os.devnull, os.O_RDONLY))); "
        "terminal.write_line('result'); terminal.leave_standard_streams()"
    )
    ended = subprocess.run(["sh", "-c", f"'{sys.executable}' -c \"$0\" {closed}", program], check=False)
    assert ended.returncode == 0
    assert int((tmp_path / "number").read_text()) > 2
