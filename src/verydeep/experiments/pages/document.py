"""A page as data: sections of paragraphs, tables, charts and pictures, rendered as Markdown and as HTML."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from verydeep.experiments.pages.charts import Panel

Tone = Literal["", "good", "bad", "open"]
"""Colour of a cell's text in HTML. Markdown has no colour, so the text must say the same."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table with formatting."""

    text: str
    strong: bool = False
    tone: Tone = ""
    shade: float | None = None
    """Shade of a heat map, in [0, 1]."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    numeric: bool = True


@dataclass(frozen=True)
class Grid:
    """A table."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    folded: bool = False
    """Whether it is collapsed until the reader opens it."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Preformatted text, such as commands."""

    text: str


@dataclass(frozen=True)
class Figure:
    """One chart or several side by side."""

    name: str
    """Name of its file, without the page's prefix and the suffix."""
    caption: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Picture:
    """A photograph embedded in the page."""

    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Photographs; left out of Markdown, which cannot embed them."""

    pictures: tuple[Picture, ...]


Block: TypeAlias = Grid | Paragraph | Items | Code | Figure | Gallery


@dataclass(frozen=True)
class Section:
    """A section of a page."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A page."""

    title: str
    lead: tuple[Block, ...]
    """Blocks before the table of contents."""
    sections: tuple[Section, ...]

    def figures(self) -> Iterator[Figure]:
        """Yield all figures, in order."""
        for blocks in (self.lead, *(section.blocks for section in self.sections)):
            yield from (block for block in blocks if isinstance(block, Figure))


def anchor(title: str) -> str:
    """Return the anchor of a section."""
    words = "".join(letter if letter.isalnum() else " " for letter in title.lower()).split()
    return "-".join(words)
