"""Tables 8, 9 and 10 as data, and their presets."""

import pytest

from synthetic import refusal
from verydeep.configurations import Architecture
from verydeep.experiments.localisation.plan import (
    CLAIMS,
    TABLES,
    TRAININGS,
    chosen_box_tables,
    measured_box_rows,
)
from verydeep.experiments.localisation.presets import box_preset
from verydeep.experiments.plan import TRAININGS as PLAN
from verydeep.experiments.presets import PRESETS


def test_the_papers_errors():
    printed = {name: [(row.printed.val, row.printed.test) for row in table.rows] for name, table in TABLES.items()}
    assert printed == {
        "table8": [(36.4, None), (34.3, None), (33.1, None)],
        "table9": [(29.5, None), (28.2, 26.7), (27.5, None), (26.9, 25.3)],
        "table10": [(26.9, 25.3), (None, 26.7), (30.0, 29.9), (None, 34.2)],
    }


def test_the_findings_are_those_of_the_printed_errors():
    for claim in CLAIMS:
        assert claim.row.printed.val < claim.against.printed.val, claim.name


def test_a_row_of_two_tables_is_measured_once():
    assert [row.key for row in measured_box_rows(TABLES.values())] == [
        "SCR-fc@256 centre-crop",
        "PCR-fc@256 centre-crop",
        "PCR@256 centre-crop",
        "PCR@256 dense",
        "PCR-384@384 dense",
        "PCR-384@352,384 dense",
        "PCR@256 + PCR-384@352,384 dense",
    ]
    assert "unknown table 'table7'" in refusal(chosen_box_tables, ["table7"])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_every_regressor_from_a_net_of_its_scale(name):
    preset = box_preset(name)
    for training in TRAININGS.values():
        net = preset.classification.training(PLAN["D"], 0, "runs/a").architecture(10)
        recipe = preset.training(training, 0, "runs/d", net)
        assert (recipe.net, recipe.crop, recipe.width) == ("D", net.crop, net.width)
        assert recipe.start_from == "runs/d"
        assert recipe.training_scale == (preset.classification.scale(training.scale),)
        assert recipe.learns == (("fc6", "fc7", "fc8") if training.name.endswith("-fc") else ())
    small, middle, large = (preset.classification.scale(q) for q in (256, 352, 384))
    assert small <= middle < large, "the two test scales of a net differ"


def test_the_rate_of_the_paper():
    preset = box_preset("ilsvrc")
    recipe = preset.training(TRAININGS["PCR"], 0, "runs/d", Architecture("D"))
    assert (recipe.learning_rate, recipe.initial_rate("D"), recipe.training_scale) == (None, 1e-3, (256,))
