"""The report of an experiment matches its data, finished or not."""

import re
import runpy
import shutil
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from made_up import CLASSES, made_up, write
from verydeep.datasets.dataset import Dataset
from verydeep.errors import UserError
from verydeep.experiments.plan import TABLES
from verydeep.experiments.report import check_report, make_report, report
from verydeep.experiments.report.making import experiment_document
from verydeep.experiments.report.measurements import Measurements
from verydeep.experiments.results import Outcomes

ROOT = Path(__file__).parents[3]
IMAGES = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished experiment and its pages."""
    folder = write(tmp_path_factory.mktemp("experiment"), *made_up(images=IMAGES))
    make_report(folder)
    return folder


@pytest.fixture
def copied(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "copied"))


def page(folder, name="report.md"):
    return (folder / name).read_text(encoding="utf-8")


def rows_of(text, title):
    """The cells of a table of a Markdown page, row by row."""
    after = text.split(f"**{title}**", 1)[1].lstrip().split("\n\n", 1)[0]
    lines = [line.replace("\\", "").strip("|").split(" | ") for line in after.splitlines()]
    return [[cell.strip() for cell in line] for line in (lines[0], *lines[2:])]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_row_is_there_in_order_with_the_papers_errors(made, table):
    head, *rows = rows_of(page(made), table.title)
    assert len(rows) == len(table.rows)
    for cells, row in zip(rows, table.rows, strict=True):
        assert all(tested.training in cells[0] for tested in row.nets)
        assert row.label in cells[0]
        printed = [row.printed.top1, row.printed.top5, row.printed.top5_test]
        papers = [cell for name, cell in zip(head, cells, strict=True) if name.startswith("paper")]
        assert [cell for cell in papers if cell] == [f"{value:.1f}" for value in printed if value is not None]
        if row.nets:
            assert re.search(r"\d+\.\d\d ± \d+\.\d\d", cells[5])


def test_a_row_says_how_and_at_which_sizes_it_was_measured(made):
    cells = rows_of(page(made), "Table 4: several test scales")[2]
    assert cells[:5] == ["C", "160 (256)", "224, 256, 288", "dense, Q = 128, 160, 192, with mirror images", "3"]


def test_errors_are_those_of_the_outcomes(made):
    _, _, outcomes = made_up(images=IMAGES)
    errors = np.array([(outcomes.rank["A@256 dense", seed] > 0).mean() for seed in range(3)])
    assert rows_of(page(made), "Table 3: one test scale")[1][5] == (
        f"**{100 * errors.mean():.2f} ± {100 * errors.std(ddof=1):.2f}**"
    )


def test_both_pages_have_all_parts(made):
    parts = [
        "The paper's findings",
        "Tables",
        "Error against depth",
        "Error against test scales",
        "Training curves",
        "Confusion between classes",
        "Photographs most often misclassified",
        "Preset, trainings, versions, hardware",
        "Time and computing cost",
    ]
    assert re.findall(r"^## (.*)$", page(made), re.M) == parts
    titles = re.findall(r"<h2>(.*)</h2>", page(made, "report.html"))
    assert [title.replace("&#x27;", "'") for title in titles] == parts
    shown = re.findall(r"\]\((.*\.svg)\)", page(made))
    assert len(shown) == 5
    assert sorted(shown) == sorted(path.name for path in made.glob("*.svg"))
    assert page(made, "report.html").count('<svg class="chart"') == sum(
        page(made, name).count("<g class") for name in shown
    )


def test_html_needs_nothing_but_itself(made):
    text = page(made, "report.html")
    assert not re.search(r"https?:|@import|url\(|<script", text)
    assert all(value.startswith(("#", "data:")) for value in re.findall(r'(?:src|href)="([^"]*)"', text))


def test_the_same_data_give_the_same_bytes(made, copied):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    make_report(copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_a_page_that_does_not_follow_from_its_data_is_found(copied):
    assert check_report(copied) == ()
    assert complaint([copied]) is None
    other = page(copied, "report.html").replace("imagenette", "imagenet", 1)
    (copied / "report.html").write_text(other, encoding="utf-8")
    (copied / "report-depth.svg").unlink()
    assert [path.name for path in check_report(copied)] == ["report-depth.svg", "report.html"]
    assert "report.html does not match its data; make it with: verydeep report" in complaint([copied])


def test_a_folder_that_cannot_be_read_is_a_complaint(tmp_path):
    assert "cannot read" in complaint([tmp_path])


def complaint(folders):
    """The complaint of `make check` about the pages in some folders."""
    return runpy.run_path(str(ROOT / ".ci" / "pages.py"))["main"](folders)


def test_an_experiment_that_has_just_begun_has_a_report(tmp_path):
    results, times, outcomes = made_up(images=10)
    begun = replace(results, rows=(), curves=())
    folder = write(tmp_path, begun, replace(times, steps=()), Outcomes(outcomes.labels, outcomes.names))
    make_report(folder)
    for table in TABLES.values():
        rows = rows_of(page(folder), table.title)[1:]
        assert [cells[5] for cells in rows] == ["not yet" if row.nets else "" for row in table.rows]
    assert "Finished: 0 of 66 trainings" in page(folder)
    assert "9 not measured" in page(folder)
    assert "9,469 training images; 10 test images; 470 held out of the training images" in page(folder)


def test_an_experiment_that_is_half_done_says_what_is_missing(tmp_path):
    results, times, outcomes = made_up(images=100)
    one_seed = {"D@256 dense": 1, "E@256 dense": 0}
    rows = tuple(
        replace(row, seeds=row.seeds[: one_seed[row.key]] if row.key in one_seed else row.seeds)
        for row in results.rows
    )
    half = replace(results, rows=tuple(row for row in rows if row.seeds), curves=results.curves[::2])
    make_report(write(tmp_path, half, times, outcomes))
    rows = {cells[0]: cells for cells in rows_of(page(tmp_path), "Table 3: one test scale")[1:]}
    assert rows["D"][4] == "1 of 3"
    assert "±" not in rows["D"][5]
    assert rows["E"][4:6] == ["0 of 3", "not yet"]
    assert rows["A"][4] == "3"


def test_one_seed_has_no_spread_and_decides_nothing(tmp_path):
    make_report(write(tmp_path, *made_up(seeds=(7,), images=100)))
    assert "±" not in page(tmp_path).split("## Error against depth")[0].split("## Tables")[1].split("\n\n", 2)[2]
    assert "9 undecided" in page(tmp_path)


def test_some_tables_alone_have_a_report(tmp_path):
    make_report(write(tmp_path, *made_up(seeds=(0,), images=50, tables=("table3",))))
    assert "Table 3" in page(tmp_path)
    assert "Table 4" not in page(tmp_path).split("## Error")[0]


def test_names_from_outside_are_escaped(tmp_path):
    classes = ("<script>alert(1)</script>", "a|b", "*c*", *CLASSES[3:])
    make_report(write(tmp_path, *made_up(seeds=(0,), images=50, classes=classes)))
    assert "<script" not in page(tmp_path, "report.html")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page(tmp_path, "report.html")
    assert r"\<script\>" in page(tmp_path)
    assert r"a\|b" in page(tmp_path)


def test_the_photographs_that_are_most_often_wrong_come_first():
    results, times, outcomes = made_up(images=100)
    for key, seed in outcomes.rank:
        outcomes.rank[key, seed][:] = 0
        outcomes.said[key, seed][:] = outcomes.labels
    for seed in (0, 1):
        outcomes.rank["A@256 dense", seed][[42, 17]] = 1
        outcomes.said["A@256 dense", seed][[42, 17]] = 3
    outcomes.rank["D-jitter@384 dense", 2][17] = 1
    outcomes.said["D-jitter@384 dense", 2][17] = 4
    section = next(
        section
        for section in experiment_document(Measurements(results, times, outcomes)).sections
        if section.title == "Photographs most often misclassified"
    )
    _, grid = section.blocks
    assert [column.name for column in grid.columns[3:]] == ["A", "A-LRN", "B", "C-jitter", "D-jitter", "E-jitter"]
    first, second = grid.rows
    assert first[:3] == (outcomes.names[17], CLASSES[7], "3 of 18")
    assert [cell.text for cell in first[3:]] == [
        "chain saw, 2/3",
        "right, 3/3",
        "right, 3/3",
        "right, 3/3",
        "right, 2/3",
        "right, 3/3",
    ]
    assert second[0] == outcomes.names[42]


def test_html_shows_the_photographs_that_it_is_handed(copied):
    _, _, outcomes = made_up(images=IMAGES)
    pictures = tuple(np.full((300, 200, 3), 90, np.uint8) for _ in outcomes.names)
    tested = Dataset("imagenette/val", CLASSES, pictures, outcomes.labels)
    make_report(copied, copied / "shown.html", tested)
    text = page(copied, "shown.html")
    assert text.count('src="data:image/jpeg;base64,') == 12
    assert len(text) - len(page(copied, "report.html")) < 60_000
    sides = [Image.open(BytesIO(b64decode(each))).size for each in re.findall(r"base64,([^\"]+)", text)]
    assert set(sides) == {(107, 160)}
    with pytest.raises(UserError, match="does not contain the 60 photographs that were tested"):
        make_report(copied, copied / "shown.html", Dataset("others", CLASSES, pictures[1:], outcomes.labels[1:]))


def test_tiny_photographs_are_enlarged_as_they_are(copied):
    _, _, outcomes = made_up(images=IMAGES)
    digits = tuple(np.zeros((8, 8, 3), np.uint8) for _ in outcomes.names)
    make_report(copied, copied / "shown.html", Dataset("digits/val", CLASSES, digits, outcomes.labels))
    pictures = re.findall(r"base64,([^\"]+)", page(copied, "shown.html"))
    assert {Image.open(BytesIO(b64decode(picture))).size for picture in pictures} == {(160, 160)}


def test_files_of_two_experiments_are_refused(tmp_path):
    results, times, outcomes = made_up(seeds=(0,), images=50, tables=("table3",))
    outcomes.rank["A@256 dense", 0][:] = 9
    with pytest.raises(UserError, match=r"belong to different experiments: errors .* of A@256 dense of seed 0"):
        make_report(write(tmp_path, results, times, outcomes))


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*results\.json"):
        make_report(tmp_path)


def test_a_file_of_somebody_elses_is_kept(copied):
    (copied / "report.md").write_text("my notes", encoding="utf-8")
    with pytest.raises(UserError, match="was not made by verydeep report"):
        report([copied])
    assert page(copied) == "my notes"
