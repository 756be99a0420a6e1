"""The names an experiment gives its images, whatever the names of their files."""

import sys

import pytest

from synthetic import write
from verydeep.distributed import Ranks
from verydeep.experiments.experiment import open_data
from verydeep.experiments.presets import preset
from verydeep.experiments.results import OUTCOMES, Outcomes, read_outcomes, write_outcomes


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux may names be any bytes")
def test_names_of_photographs_are_lines_that_come_back(tmp_path):
    data = tmp_path / "p\udce9ts"
    for split in ("train", "val"):
        for name in ("c\udce9t", "dog"):
            for file in ("1.png", "2\n\udce9.png"):
                write(data / split / name / file)
    found = open_data(data, preset("imagenette"), Ranks(), False)
    assert found.name == r"p\xe9ts"
    assert found.tested.classes == (r"c\xe9t", "dog")
    assert found.names == (r"c\xe9t/1.png", r"c\xe9t/2\n\xe9.png", "dog/1.png", r"dog/2\n\xe9.png")
    write_outcomes(Outcomes(found.tested.labels, found.names), tmp_path / OUTCOMES)
    assert read_outcomes(tmp_path).names == found.names
