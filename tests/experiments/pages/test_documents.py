"""A page has the same text in Markdown and in HTML, whatever it contains."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from verydeep.errors import UserError
from verydeep.experiments.pages.charts import Axis, Panel, Point, Series
from verydeep.experiments.pages.document import (
    Cell,
    Code,
    Column,
    Document,
    Figure,
    Gallery,
    Grid,
    Items,
    Paragraph,
    Picture,
    Section,
)
from verydeep.experiments.pages.html import html
from verydeep.experiments.pages.markdown import markdown
from verydeep.experiments.pages.written import page_files, stale, write_files

VOID = {"meta", "link", "img", "rect", "path"}


class Parsed(HTMLParser):
    """The elements of a page; fails if one is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def document(text="text"):
    chart = Panel(text, Axis(text), Axis(text), (Series(text, (Point(0.0, 1.0, note=text),)),))
    grid = Grid(text, (Column(text, False), Column("number")), ((text, Cell(text, True, "good", 0.5)),))
    folded = Grid(text, (Column(text),), ((text,),), folded=True)
    blocks = (
        grid,
        folded,
        Items((text,)),
        Code(text),
        Figure("chart", text, (chart,)),
        Gallery((Picture(b"x", text),)),
    )
    return Document(text, (Paragraph(text),), (Section("One", blocks), Section("Two", ())))


@settings(max_examples=20, deadline=None)
@given(st.text(min_size=1))
def test_no_text_from_outside_becomes_markup(text):
    page = Parsed(html(document(text), "mark"))
    assert page.names == Parsed(html(document("x"), "mark")).names
    assert {name for name, _ in page.attributes} == {
        name for name, _ in Parsed(html(document("x"), "")).attributes
    }


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a|b", '"><img src=x>', "&lt;", "\ud800", "a\nb"])
def test_texts_that_look_like_markup_are_shown_as_they_are(text):
    page = html(document(text), "mark")
    page.encode()
    shown = text.replace("\n", r"\n").replace("\ud800", r"\ud800")
    assert shown in "".join(Parsed(page).words)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("|\\`*_[]()<>~!$&;#:-\n a1"), min_size=1))
def test_a_reader_of_markdown_sees_the_text_and_no_marks(text):
    grid = Grid("", (Column("a"), Column("b")), ((text, Cell(f"x{text}x", strong=True)),))
    page = markdown(Document("title", (grid, Paragraph(f"x{text}x")), ()), "mark", "x")
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    seen = [read(token) for token in tokens if token.type == "inline"]
    line = text.replace("\n", r"\n")
    assert seen == ["title", "a", "b", line.strip(), f"x{line}x", f"x{line}x"]


def read(inline):
    """The text of a line, which may contain nothing but text, bold as a whole."""
    assert {token.type for token in inline.children} <= {"text", "strong_open", "strong_close", "text_special"}
    return "".join(token.content for token in inline.children)


def test_a_page_has_contents_that_lead_to_its_sections():
    text = html(document(), "mark")
    assert re.findall(r'<a href="#([^"]+)"', text) == re.findall(r'<section id="([^"]+)"', text) == ["one", "two"]


def test_html_asks_nothing_of_the_network():
    text = html(document(), "mark")
    assert not re.search(r"https?:|@import|url\(|<script", text)
    sources = [value for name, value in Parsed(text).attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith(("data:", "#")) for value in sources)


def test_markdown_comes_with_its_charts_beside_it(tmp_path):
    files = page_files(document(), tmp_path / "my page.md")
    assert [path.name for path in files] == ["my page.md", "my page-chart.svg"]
    assert "](my%20page-chart.svg)" in files[tmp_path / "my page.md"]
    assert list(page_files(document(), tmp_path / "page.html")) == [tmp_path / "page.html"]


def test_another_kind_of_page_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"page\.pdf must end in \.html or \.md"):
        page_files(document(), tmp_path / "page.pdf")


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_a_report_is_overwritten_and_anything_else_is_not(tmp_path, suffix):
    page = tmp_path / f"new/page{suffix}"
    write_files(page_files(document("one"), page))
    write_files(page_files(document("two"), page))
    assert "two" in page.read_text(encoding="utf-8")
    page.write_text("my notes on verydeep", encoding="utf-8")
    with pytest.raises(UserError, match=r"page\.\w+ was not made by verydeep report; move it away"):
        write_files(page_files(document("three"), page))
    assert page.read_text(encoding="utf-8") == "my notes on verydeep"


def test_where_a_chart_would_overwrite_a_file_nothing_is_written(tmp_path):
    (tmp_path / "page-chart.svg").write_text("<svg/>", encoding="utf-8")
    with pytest.raises(UserError, match=r"page-chart\.svg was not made"):
        write_files(page_files(document(), tmp_path / "page.md"))
    assert not (tmp_path / "page.md").exists()


def test_what_was_changed_or_is_missing_is_stale(tmp_path):
    files = page_files(document(), tmp_path / "page.md")
    assert list(stale(files)) == list(files)
    write_files(files)
    assert list(stale(files)) == []
    page, chart = files
    page.write_text(page.read_text(encoding="utf-8").replace("text", "other"), encoding="utf-8")
    chart.unlink()
    assert list(stale(files)) == [page, chart]
