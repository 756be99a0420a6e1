"""Charts are self-contained SVG that shows its data."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verydeep.experiments.pages.charts import HEIGHT, WIDTH, Axis, Panel, Point, Series, drawn, same_length, sheet

SVG = "{http://www.w3.org/2000/svg}"


def panel(*values, kind="joined", **y):
    points = tuple(Point(float(place), float(value)) for place, value in enumerate(values))
    return Panel("Errors", Axis("epoch"), Axis("%", **y), (Series("A", points, kind=kind),))


def marks(text):
    """The positions of the markers."""
    places = re.findall(r'class="mark[^"]*" d="M([\d.-]+) ([\d.-]+)', text)
    return [(float(x), float(y)) for x, y in places]


def ticks(text, axis):
    """The labels of an axis and their positions."""
    at = {"x": r'x="([\d.-]+)" y="[\d.-]+"', "y": r'x="[\d.-]+" y="([\d.-]+)"'}[axis]
    return [
        (float(label), float(place)) for place, label in re.findall(rf'class="tick {axis}" {at}>([^<]+)<', text)
    ]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e5, allow_subnormal=False), min_size=1, max_size=20),
    st.sampled_from(["curve", "marks", "joined"]),
)
def test_whatever_the_values_the_file_parses_and_all_is_inside_the_panel(values, kind):
    text = sheet([panel(*values, kind=kind)])
    ElementTree.fromstring(text)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in marks(text))
    assert 1 <= len(ticks(text, "y")) <= 8


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=6, unique=True))
def test_markers_stand_where_the_ticks_say(values):
    text = drawn(panel(*values))
    (low, below), (high, above) = ticks(text, "y")[0], ticks(text, "y")[-1]
    if low == high:
        return
    for value, (_, y) in zip(values, marks(text), strict=True):
        said = low + (y + 4 - below) / (above - below) * (high - low)
        assert said == pytest.approx(value, abs=0.01 * (high - low))


def test_a_logarithmic_axis_has_ticks_where_there_is_no_power_of_ten():
    for rate in (0.005, 0.003, 0.04):
        assert ticks(drawn(panel(rate, rate, logarithmic=True)), "y")
    assert {label for label, _ in ticks(drawn(panel(1e-5, 1e-2, logarithmic=True)), "y")} >= {
        1e-5,
        1e-4,
        1e-3,
        1e-2,
    }


def test_panels_of_one_length_show_equal_differences_equally():
    far, near = same_length([panel(10, 12, 20), panel(71, 72)])
    length = marks(drawn(far))[0][1] - marks(drawn(far))[1][1]
    assert length == pytest.approx(2 * (marks(drawn(near))[0][1] - marks(drawn(near))[1][1]), abs=0.2)


def test_series_differ_by_marker_and_not_only_by_colour():
    series = tuple(Series(name, (Point(0.0, 1.0),), hue=0, kind="marks") for name in "ABCD")
    text = drawn(Panel("", Axis(""), Axis(""), series))
    shapes = re.findall(r'class="mark hue-0" d="M[\d.-]+ [\d.-]+([^"]+)"', text)
    assert len(set(shapes)) == 4


def test_a_band_goes_from_the_lowest_to_the_highest():
    points = tuple(Point(float(place), 5.0, 4.0, 6.0) for place in range(3))
    chart = Panel("", Axis(""), Axis("", span=(0.0, 10.0)), (Series("A", points),))
    (band,) = re.findall(r'class="band hue-0" d="M([^"]+)Z"', drawn(chart))
    heights = [float(pair.split()[1]) for pair in band.split("L")]
    line = float(re.findall(r'class="curve hue-0" d="M[\d.]+ ([\d.]+)', drawn(chart))[0])
    assert heights == [pytest.approx(min(heights))] * 3 + [pytest.approx(max(heights))] * 3
    assert line == pytest.approx((min(heights) + max(heights)) / 2, abs=0.1)


def test_text_is_escaped_and_told_to_those_who_cannot_see():
    bad = '<script>&"\x07'
    chart = Panel(bad, Axis(bad), Axis(bad), (Series(bad, (Point(0.0, 1.0, note=bad),)), Series(bad, ())))
    root = ElementTree.fromstring(sheet([chart]))
    assert not list(root.iter(f"{SVG}script"))
    inline = drawn(chart)
    assert 'role="img"' in inline
    assert "ends at 1" in inline


def test_a_panel_without_values_says_so():
    assert "not yet" in drawn(Panel("Errors", Axis("epoch"), Axis("%"), ()))


def test_a_file_has_light_and_dark_in_itself():
    text = sheet([panel(1, 2)])
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"http(?!://www\.w3\.org/2000/svg)|@import|url\(|href", text)
