"""Render a page as HTML: one self-contained file, without scripts or network access."""

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from importlib import resources

from verydeep.experiments.pages import charts
from verydeep.experiments.pages.document import (
    Block,
    Cell,
    Code,
    Column,
    Document,
    Figure,
    Gallery,
    Grid,
    Items,
    Paragraph,
    anchor,
)
from verydeep.printable import printable


def html(document: Document, mark: str) -> str:
    """Render a document as HTML.

    Args:
        document: the page.
        mark: text of a comment at its beginning.
    """
    style = resources.files("verydeep.experiments.pages").joinpath("page.css").read_text(encoding="utf-8")
    title = _escaped(document.title)
    parts = [
        "<!DOCTYPE html>",
        f"<!-- {mark} -->",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',  # otherwise browsers request one
        f"<title>{title}</title>",
        f"<style>\n{charts.style()}{style}</style>",
        "</head>",
        "<body>",
        f"<header>\n<h1>{title}</h1>",
        *(line for block in document.lead for line in _block(block)),
        "</header>",
        '<nav aria-label="Contents">\n<ol>',
        *(
            f'<li><a href="#{anchor(section.title)}">{_escaped(section.title)}</a></li>'
            for section in document.sections
        ),
        "</ol>\n</nav>",
        "<main>",
    ]
    for section in document.sections:
        parts.append(f'<section id="{anchor(section.title)}">\n<h2>{_escaped(section.title)}</h2>')
        parts += [line for block in section.blocks for line in _block(block)]
        parts.append("</section>")
    return "\n".join([*parts, "</main>", "</body>", "</html>", ""])


def _escaped(text: str) -> str:
    return escape(printable(text))


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Grid):
        yield from _grid(block)
    elif isinstance(block, Paragraph):
        yield f"<p>{_escaped(block.text)}</p>"
    elif isinstance(block, Items):
        yield from ("<ul>", *(f"<li>{_escaped(item)}</li>" for item in block.items), "</ul>")
    elif isinstance(block, Code):
        lines = "\n".join(_escaped(line) for line in block.text.splitlines())
        yield f"<pre><code>{lines}</code></pre>"
    elif isinstance(block, Figure):
        yield from ("<figure>", '<div class="panels">')
        yield from (charts.drawn(panel) for panel in block.panels)
        yield from ("</div>", f"<figcaption>{_escaped(block.caption)}</figcaption>", "</figure>")
    else:
        yield from _gallery(block)


def _gallery(gallery: Gallery) -> Iterator[str]:
    yield '<div class="gallery">'
    for picture in gallery.pictures:
        source = f"data:image/jpeg;base64,{b64encode(picture.jpeg).decode()}"
        caption = _escaped(picture.caption)
        yield f'<figure><img src="{source}" alt=""><figcaption>{caption}</figcaption></figure>'
    yield "</div>"


def _grid(grid: Grid) -> Iterator[str]:
    caption = _escaped(grid.caption)
    if grid.folded:
        yield f"<details>\n<summary>{caption}</summary>"
    elif caption:
        yield f"<h3>{caption}</h3>"
    yield f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">\n<table>'
    head = "".join(f'<th scope="col"{_side(each)}>{_escaped(each.name)}</th>' for each in grid.columns)
    yield f"<thead><tr>{head}</tr></thead>\n<tbody>"
    for row in grid.rows:
        cells = [_cell(cell, column) for cell, column in zip(row, grid.columns, strict=True)]
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody>\n</table>\n</div>"
    if grid.folded:
        yield "</details>"


def _side(column: Column) -> str:
    return ' class="number"' if column.numeric else ""


def _cell(cell: str | Cell, column: Column) -> str:
    if isinstance(cell, str):
        return f"<td{_side(column)}>{_escaped(cell)}</td>"
    names = [*(["number"] if column.numeric else []), *([cell.tone] if cell.tone else [])]
    style = ""
    if cell.shade is not None:
        names.append("shaded")
        style = f' style="--shade:{cell.shade:.2f}"'
    text = _escaped(cell.text)
    if cell.strong:
        text = f"<strong>{text}</strong>"
    return f'<td class="{" ".join(names)}"{style}>{text}</td>' if names else f"<td>{text}</td>"
