"""Pages on disk: written atomically, never over a file that is not a report; and checked for being up to date."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from verydeep.errors import UserError, reason
from verydeep.experiments.pages import charts
from verydeep.experiments.pages.document import Document
from verydeep.experiments.pages.html import html
from verydeep.experiments.pages.markdown import figure_file, markdown
from verydeep.files import exists, is_folder, written_aside

_OURS = "Made by verydeep report"
_MARK = f"{_OURS}; making it again overwrites changes to this file."
_BEGINNING = 500
"""Number of bytes at the beginning of a file that contain the mark."""


def page_files(document: Document, page: Path) -> dict[Path, str]:
    """Return the texts of the files that make up a page.

    Args:
        document: the page.
        page: its file: .html, self-contained; or .md, with each figure in a file NAME-FIGURE.svg next to it.

    Raises:
        UserError: for any other suffix.
    """
    if page.suffix == ".html":
        return {page: html(document, _MARK)}
    if page.suffix == ".md":
        drawings = {
            page.with_name(figure_file(figure, page.stem)): f"<!-- {_MARK} -->\n{charts.sheet(figure.panels)}"
            for figure in document.figures()
        }
        return {page: markdown(document, _MARK, page.stem)} | drawings
    raise UserError(f"a report is HTML or Markdown: {page} must end in .html or .md")


def write_files(files: Mapping[Path, str]) -> None:
    """Write files atomically, or none of them if one would overwrite a file that is not a report.

    Raises:
        UserError: for such a file, or if one cannot be written.
    """
    for path in files:
        if is_folder(path) or (exists(path) and not _is_ours(path)):
            raise UserError(
                f"{path} was not made by verydeep report; move it away or choose another name for the report"
            )
    for path, text in files.items():
        with written_aside(path) as aside:
            aside.write_text(text, encoding="utf-8", newline="\n")


def stale(files: Mapping[Path, str]) -> Iterator[Path]:
    """Yield the files that are missing on disk or differ from their text."""
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
