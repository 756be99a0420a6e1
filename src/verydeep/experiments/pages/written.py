"""Pages on disk: never over somebody's own file, whole or not at all; and whether they are up to date."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from verydeep.errors import UserError, reason
from verydeep.experiments.pages import charts
from verydeep.experiments.pages.document import Document
from verydeep.experiments.pages.html import html
from verydeep.experiments.pages.markdown import figure_file, markdown
from verydeep.files import exists, is_folder, written_aside

_OURS = "Made by verydeep report"
_MARK = f"{_OURS}; making it again overwrites what was changed here."
_BEGINNING = 500
"""Bytes of a file in which the mark stands."""


def page_files(document: Document, page: Path) -> dict[Path, str]:
    """The text of the files that a page is made of.

    Args:
        document: what it says.
        page: its file: .html, which holds all; or .md, beside which each figure is a file NAME-FIGURE.svg.

    Raises:
        UserError: for another suffix.
    """
    if page.suffix == ".html":
        return {page: html(document, _MARK)}
    if page.suffix == ".md":
        drawings = {
            page.with_name(figure_file(figure, page.stem)): f"<!-- {_MARK} -->\n{charts.sheet(figure.panels)}"
            for figure in document.figures()
        }
        return {page: markdown(document, _MARK, page.stem)} | drawings
    raise UserError(f"a report is a page of HTML or of Markdown: {page} must end in .html or .md")


def write_files(files: Mapping[Path, str]) -> None:
    """Write files whole, or none of them where one would overwrite what no report has made.

    Raises:
        UserError: for such a file, and where one cannot be written.
    """
    for path in files:
        if is_folder(path) or (exists(path) and not _is_ours(path)):
            raise UserError(
                f"{path} was not made by verydeep report; move it away, or give the report another name"
            )
    for path, text in files.items():
        with written_aside(path) as aside:
            aside.write_text(text, encoding="utf-8", newline="\n")


def stale(files: Mapping[Path, str]) -> Iterator[Path]:
    """The files that are missing on disk, or hold another text."""
    for path, text in files.items():
        try:
            if path.read_text(encoding="utf-8") != text:
                yield path
        except (OSError, UnicodeDecodeError):
            yield path


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _OURS.encode() in file.read(_BEGINNING)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
