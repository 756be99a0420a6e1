"""The plan of Tables 11 and 12, before anything is computed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verydeep.errors import UserError
from verydeep.experiments.experiment import Options
from verydeep.experiments.presets import Preset
from verydeep.experiments.transfer_plan import NETS, Setting, settings_of
from verydeep.experiments.transfer_tables import (
    NO_NETS,
    columns_of,
    earlier,
    given_nets,
    opened_data,
    request_of,
)


@dataclass(frozen=True)
class Planned:
    """One setting of the plan."""

    setting: Setting
    seed: int | None
    data: str
    """Name of the data set."""
    nets: tuple[str, ...]
    """Weight files, or names of trainings of the plan."""
    photographs: int
    """Photographs, or people in them."""
    images: int
    """Images through nets if no descriptor is stored: at each scale, with mirror images and boxes. The settings
    of a data set share most of them."""
    state: str
    """measured or to do."""


def plan_transfer(
    folders: Mapping[str, str | Path],
    size: str | Preset,
    tables: Iterable[str],
    nets: Sequence[str | Path] = (),
    data: str | Path | None = None,
    seeds: int | Sequence[int] = 1,
    out: str | Path = "reproduction",
    *,
    skip_unreadable: bool = False,
    **options: Any,
) -> tuple[Planned, ...]:
    """Return the plan of `reproduce_transfer` with the same arguments, in order. Nothing is computed.

    If nets are to be trained, `dry_run` of Table 4 shows what that costs.

    Raises:
        UserError: as `reproduce_transfer` does.
    """
    request = request_of(folders, size, tables, Path(out), Options(**options), skip_unreadable)
    found = earlier(request)
    if not nets and data is None:
        raise UserError(NO_NETS)
    names: Mapping[str, str | Path] = given_nets(nets, request) if nets else NETS
    numbers: Sequence[int | None] = [None] if nets else range(seeds) if isinstance(seeds, int) else seeds
    opened = {name: opened_data(name, folder) for name, folder in request.folders.items()}
    return tuple(
        Planned(
            setting,
            seed,
            opened[name].name,
            tuple(str(names[net]) for net in setting.nets),
            len(opened[name]),
            2 * len(setting.nets) * len(setting.scales) * (1 + setting.boxes) * len(opened[name]),
            "measured" if any(each.seed == seed for each in found.of(setting)) else "to do",
        )
        for seed in numbers
        for table, name in columns_of(request)
        for setting in settings_of(table, name)
        if set(setting.nets) <= set(names)
    )
