"""Presets of the localisation experiments. Each is a file in `presets/`, with reasons for its numbers."""

import tomllib
from dataclasses import asdict, replace
from importlib import resources
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from verydeep.configurations import Architecture
from verydeep.experiments.localisation.plan import BoxTraining
from verydeep.experiments.presets import Preset, Schedule, preset
from verydeep.recipe import Recipe
from verydeep.training.presets import start_sizes


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BoxPreset:
    """The plan of Appendix A at a given size."""

    name: str
    classification: Preset
    """For the classification nets, and for S and Q."""
    recipe: dict[str, Any]
    """Fields of `Recipe` of all box regressors; sizes are those of the classification nets."""
    schedule: Schedule

    def training(self, training: BoxTraining, seed: int, start: str, net: Architecture) -> Recipe:
        """Return the recipe of a box regressor.

        Args:
            training: one of the plan.
            seed: seed of the experiment.
            start: the classification net to start from.
            net: its architecture.
        """
        schedule = {name: value for name, value in asdict(self.schedule).items() if value is not None}
        return Recipe(
            **self.recipe | schedule,
            **start_sizes(net),
            net=net.configuration,
            training_scale=(self.classification.scale(training.scale),),
            learns=training.learns,
            start_from=start,
            seed=seed,
        )


_SCHEDULE = TypeAdapter(Schedule)


def box_preset(name: str) -> BoxPreset:
    """Return a preset by name: digits, imagenette, imagenette-gpu or ilsvrc.

    Raises:
        UserError: for an unknown name.
    """
    classification = preset(name)
    file = resources.files("verydeep.experiments.localisation").joinpath("presets", f"{name}.toml")
    values = tomllib.loads(file.read_text(encoding="utf-8"))
    if scales := values.get("scales"):
        scales = {int(paper): pixels for paper, pixels in scales.items()}
        classification = replace(classification, scales=classification.scales | scales)
    if others := values.get("classification"):
        schedules = {stage: _SCHEDULE.validate_python(each) for stage, each in others["schedules"].items()}
        classification = replace(
            classification,
            recipe=classification.recipe | others["recipe"],
            schedules=classification.schedules | schedules,
        )
    return BoxPreset(name, classification, values.get("recipe", {}), _SCHEDULE.validate_python(values["schedule"]))
