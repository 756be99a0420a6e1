"""A page as data: sections of paragraphs, tables, charts and pictures. Markdown and HTML are both made from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from verydeep.experiments.pages.charts import Panel

Tone = Literal["", "good", "bad", "open"]
"""How a cell is tinted in HTML: nothing else says so, so its text has to."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than its text."""

    text: str
    strong: bool = False
    tone: Tone = ""
    shade: float | None = None
    """Of a heat map, in [0, 1]."""


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
    """Whether it is shown only when it is asked for."""


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
    """Commands, or what else is shown as it is."""

    text: str


@dataclass(frozen=True)
class Figure:
    """One chart or several side by side."""

    name: str
    """Of its file, without what the page adds to it."""
    caption: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Picture:
    """A photograph that the page carries in itself."""

    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Photographs; Markdown, which cannot carry them, leaves them out."""

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
    """What stands before the table of contents."""
    sections: tuple[Section, ...]

    def figures(self) -> Iterator[Figure]:
        """All figures, in order."""
        for blocks in (self.lead, *(section.blocks for section in self.sections)):
            yield from (block for block in blocks if isinstance(block, Figure))


def anchor(title: str) -> str:
    """What a section is linked by."""
    words = "".join(letter if letter.isalnum() else " " for letter in title.lower()).split()
    return "-".join(words)
