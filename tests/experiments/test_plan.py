"""The plan is the paper's: its trainings, its tables row by row with S and Q, and its printed errors."""

import pytest

from synthetic import refusal
from verydeep.configurations import CONFIGURATIONS
from verydeep.experiments.plan import (
    PAPER_TABLES,
    TABLES,
    TRAININGS,
    chosen_tables,
    measured_rows,
    needed_trainings,
)

# As printed in the paper: net, S, Q, top-1 and top-5 error in percent.
TABLE_3 = """
A 256 256 29.6 10.4
A-LRN 256 256 29.7 10.5
B 256 256 28.7 9.9
C 256 256 28.1 9.4
C 384 384 28.1 9.3
C 256;512 384 27.3 8.8
D 256 256 27.0 8.8
D 384 384 26.8 8.7
D 256;512 384 25.6 8.1
E 256 256 27.3 9.0
E 384 384 26.9 8.7
E 256;512 384 25.5 8.0
"""
TABLE_4 = """
B 256 224,256,288 28.2 9.6
C 256 224,256,288 27.7 9.2
C 384 352,384,416 27.8 9.2
C 256;512 256,384,512 26.3 8.2
D 256 224,256,288 26.6 8.6
D 384 352,384,416 26.5 8.6
D 256;512 256,384,512 24.8 7.5
E 256 224,256,288 26.9 8.7
E 384 352,384,416 26.7 8.6
E 256;512 256,384,512 24.8 7.5
"""


@pytest.mark.parametrize(("name", "printed"), [("table3", TABLE_3), ("table4", TABLE_4)])
def test_tables_3_and_4_are_the_papers(name, printed):
    found = [
        (
            TRAININGS[row.nets[0].training].net,
            ";".join(map(str, TRAININGS[row.nets[0].training].scale)),
            ",".join(map(str, row.nets[0].scales)),
            str(row.printed.top1),
            str(row.printed.top5),
        )
        for row in TABLES[name].rows
    ]
    assert found == [tuple(line.split()) for line in printed.split("\n") if line]
    assert all(row.method == "dense" and len(row.nets) == 1 for row in TABLES[name].rows)


def test_table_5_compares_dense_and_multi_crop_on_the_jittered_nets():
    found = [
        (row.nets[0].training, row.nets[0].scales, row.method, row.printed.top1, row.printed.top5)
        for row in TABLES["table5"].rows
    ]
    wide = (256, 384, 512)
    assert found == [
        ("D-jitter", wide, "dense", 24.8, 7.5),
        ("D-jitter", wide, "multi-crop", 24.6, 7.5),
        ("D-jitter", wide, "both", 24.4, 7.2),
        ("E-jitter", wide, "dense", 24.8, 7.5),
        ("E-jitter", wide, "multi-crop", 24.6, 7.4),
        ("E-jitter", wide, "both", 24.4, 7.1),
    ]


def test_table_6_fuses_the_seven_submitted_nets_and_the_two_best():
    submission, *fused = TABLES["table6"].rows
    assert [str(tested) for tested in submission.nets] == [
        "D@224,256,288",
        "D-384@352,384,416",
        "D-jitter-fc@256,384,512",
        "C@224,256,288",
        "C-384@352,384,416",
        "E@224,256,288",
        "E-384@352,384,416",
    ]
    assert (submission.printed.top1, submission.printed.top5, submission.printed.top5_test) == (24.7, 7.5, 7.3)
    assert [(row.method, row.printed.top1, row.printed.top5, row.printed.top5_test) for row in fused] == [
        ("dense", 24.0, 7.1, 7.0),
        ("multi-crop", 23.9, 7.2, None),
        ("both", 23.7, 6.8, 6.8),
    ]
    assert all(
        [str(each) for each in row.nets] == ["D-jitter@256,384,512", "E-jitter@256,384,512"] for row in fused
    )


def test_table_7_has_every_system_of_the_time_and_measures_no_more_than_tables_5_and_6():
    rows = TABLES["table7"].rows
    assert [row.printed.top1 for row in rows] == [
        23.7, 24.4, 24.7, None, None, None, 27.9, None, None, 36.0, 37.5, 34.0, 35.7, 38.1, 40.7,
    ]  # fmt: skip
    assert {row.key for row in rows if row.nets} <= {
        row.key for name in ("table5", "table6") for row in TABLES[name].rows
    }


def test_nets_are_trained_in_the_papers_chain():
    starts = {name: each.start for name, each in TRAININGS.items() if not each.control}
    assert starts == {
        "A": None, "A-LRN": None, "B-5x5": None, "B": "A", "C": "A", "D": "A", "E": "A",
        "C-384": "C", "D-384": "D", "E-384": "E",
        "C-jitter": "C-384", "D-jitter": "D-384", "E-jitter": "E-384", "D-jitter-fc": "D-384",
    }  # fmt: skip
    order = list(TRAININGS)
    assert all(
        each.start is None or order.index(each.start) < order.index(name) for name, each in TRAININGS.items()
    )
    assert [name for name, each in TRAININGS.items() if each.learns] == ["D-jitter-fc"]
    assert {each.net for each in TRAININGS.values()} == set(CONFIGURATIONS)


def test_every_fine_tuning_has_a_control_of_equal_length_at_the_s_that_it_starts_from():
    for net in "CDE":
        for name, control in ((f"{net}-384", f"{net}-longer"), (f"{net}-jitter", f"{net}-384-longer")):
            tuned, other = TRAININGS[name], TRAININGS[control]
            assert (other.start, other.stage, other.control) == (tuned.start, tuned.stage, True)
            assert other.scale == TRAININGS[tuned.start].scale


def test_what_is_asked_for_needs_what_it_starts_from_and_nothing_else():
    def needed(*tables, controls=False):
        return [training.name for training in needed_trainings(chosen_tables(tables, controls))]

    assert needed("table5") == ["A", "D", "E", "D-384", "E-384", "D-jitter", "E-jitter"]
    assert needed("table4") == ["A", "B", "C", "D", "E"] + [f"{n}-{s}" for s in ("384", "jitter") for n in "CDE"]
    assert needed("table3")[:3] == ["A", "A-LRN", "B-5x5"]
    assert needed() == [name for name, each in TRAININGS.items() if not each.control]
    assert needed(controls=True) == list(TRAININGS)
    assert needed("table7", controls=True) == needed("table7")


def test_every_tested_net_is_trained_and_every_row_has_one_key():
    rows = measured_rows(TABLES.values())
    assert all(tested.training in TRAININGS for row in rows for tested in row.nets)
    assert len({row.key for row in rows}) == len(rows)


def test_another_table_is_refused_with_those_there_are():
    message = refusal(chosen_tables, ["table3", "table9"], False)
    assert "'table9'" in message
    assert all(name in message for name in PAPER_TABLES)
