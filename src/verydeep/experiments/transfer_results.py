"""The results of Tables 11 and 12 as JSON: everything their page needs, and what tells whether they still hold."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from verydeep.errors import UserError
from verydeep.experiments.results import read_sealed, write_json
from verydeep.experiments.transfer_plan import Setting
from verydeep.transfer import TransferResult

FORMAT = 1
RESULTS = "transfer-tables.json"
"""File in the folder of an experiment."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Measured:
    """One setting, measured with the nets of one seed."""

    __pydantic_config__ = _STRICT
    setting: Setting
    seed: int | None
    """Seed of the nets; None for nets that were given."""
    key: str
    """Identifies everything that the result depends on: weights, photographs, labels, splits, scales."""
    content: str
    """Identifies the photographs and labels of the data set alone."""
    result: TransferResult
    draws: tuple[float | None, ...]
    """The measure on each bootstrap sample of the test photographs; None if nothing can be measured on it. The
    samples are the same for all settings of a data set, so the difference of two settings has an interval, too."""


@dataclass(frozen=True)
class TransferTables:
    """The measurements of an experiment's folder so far."""

    __pydantic_config__ = _STRICT
    preset: str
    tables: tuple[str, ...]
    """Names of the requested tables, of this call and earlier ones."""
    measured: tuple[Measured, ...] = ()
    format: int = FORMAT

    def of(self, setting: Setting) -> tuple[Measured, ...]:
        """Return the measurements of a setting, one per seed."""
        return tuple(each for each in self.measured if each.setting == setting)


_TABLES = TypeAdapter(TransferTables)


def read_transfer_tables(folder: Path) -> TransferTables:
    """Read transfer-tables.json.

    Raises:
        UserError: if it is missing, damaged or of another format.
    """
    found: TransferTables = read_sealed(_TABLES, folder / RESULTS)
    if found.format != FORMAT:
        raise UserError(
            f"{folder / RESULTS} has format {found.format}; this version of verydeep reads format {FORMAT}"
        )
    return found


def write_transfer_tables(found: TransferTables, folder: Path) -> None:
    """Write transfer-tables.json, completely or not at all."""
    write_json(found, folder / RESULTS)
