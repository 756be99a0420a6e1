"""Render a page as GitHub-flavoured Markdown."""

import os
import re
from collections.abc import Iterator
from html import escape
from urllib.parse import quote

from verydeep.experiments.pages.document import (
    Block,
    Cell,
    Code,
    Document,
    Figure,
    Grid,
    Items,
    Paragraph,
)
from verydeep.printable import printable

_MARKS = re.compile(r"[\\`*_\[\]<>|~$&#]")


def markdown(document: Document, mark: str, stem: str) -> str:
    """Render a document as Markdown.

    Args:
        document: the page.
        mark: text of a comment in its first line.
        stem: prefix of the names of its figures' files.
    """
    parts = [f"<!-- {mark} -->", f"# {_escaped(document.title)}"]
    parts += [text for block in document.lead if (text := _block(block, stem))]
    for section in document.sections:
        parts.append(f"## {_escaped(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block, stem))]
    return "\n\n".join(parts) + "\n"


def figure_file(figure: Figure, stem: str) -> str:
    """Return the name of a figure's file."""
    return f"{stem}-{figure.name}.svg"


def _escaped(text: str) -> str:
    """Escape a text so that nothing in it is read as markup."""
    return _MARKS.sub(r"\\\g<0>", printable(text))


def _block(block: Block, stem: str) -> str:
    if isinstance(block, Grid):
        return "\n".join(_grid(block))
    if isinstance(block, Paragraph):
        return _escaped(block.text)
    if isinstance(block, Items):
        return "\n".join(f"- {_escaped(item)}" for item in block.items)
    if isinstance(block, Code):
        return "\n".join(f"    {printable(line)}" for line in block.text.splitlines())
    if isinstance(block, Figure):
        titles = "; ".join(panel.title for panel in block.panels)
        return (
            f"![{_escaped(titles)}]({quote(os.fsencode(figure_file(block, stem)))})\n\n{_escaped(block.caption)}"
        )
    return ""  # photographs


def _grid(grid: Grid) -> Iterator[str]:
    if grid.folded:
        yield from (f"<details><summary>{escape(printable(grid.caption))}</summary>", "")
    elif grid.caption:
        yield from (f"**{_escaped(grid.caption)}**", "")
    yield _row([_escaped(column.name) for column in grid.columns])
    yield "|" + "|".join("--:" if column.numeric else "---" for column in grid.columns) + "|"
    for row in grid.rows:
        yield _row([_cell(cell) for cell in row])
    if grid.folded:
        yield from ("", "</details>")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return _escaped(cell)
    text = _escaped(cell.text).strip()
    return f"**{text}**" if cell.strong and text else text
