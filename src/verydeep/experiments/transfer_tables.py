"""Tables 11 and 12 as one function: transfer nets to the given data sets, store and report the results."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

from verydeep.computing import Precision
from verydeep.distributed import Ranks, ranks
from verydeep.errors import UserError
from verydeep.evaluation import store
from verydeep.evaluation.testing import tested
from verydeep.experiments.experiment import Options, prepare
from verydeep.experiments.plan import Row, Tested, needed_trainings
from verydeep.experiments.plan import Table as TrainedTable
from verydeep.experiments.presets import Preset, preset
from verydeep.experiments.steps import train_step
from verydeep.experiments.transfer_plan import NETS, PROTOCOLS, TABLES, Setting, Table, chosen_tables, settings_of
from verydeep.experiments.transfer_report import write_transfer_report
from verydeep.experiments.transfer_results import (
    FORMAT,
    RESULTS,
    Measured,
    TransferTables,
    read_transfer_tables,
    write_transfer_tables,
)
from verydeep.files import digest, exists
from verydeep.progress import say
from verydeep.transfer import TransferData, TransferResult, described, open_transfer_data
from verydeep.transfer.measures import resampled
from verydeep.transfer.procedure import judged_on, splits_of, training_images_of
from verydeep.transfer.splits import Split
from verydeep.transfer.store import identity

NO_NETS = "Tables 11 and 12 need nets; pass --nets with weights of D and E, or --data to train them"


@dataclass(frozen=True)
class Request:
    """What to measure, and with what."""

    tables: tuple[Table, ...]
    folders: Mapping[str, str | Path]
    """The folder of each data set, by its name in `PROTOCOLS`."""
    preset: Preset
    out: Path
    options: Options
    skip_unreadable: bool


def reproduce_transfer(
    folders: Mapping[str, str | Path],
    size: str | Preset,
    tables: Iterable[str],
    nets: Sequence[str | Path] = (),
    data: str | Path | None = None,
    seeds: int | Sequence[int] = 1,
    out: str | Path = "reproduction",
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    micro_batch: int = 0,
    deterministic: bool = False,
    skip_unreadable: bool = False,
) -> TransferTables:
    """Measure Tables 11 and 12 (Appendix B), or resume: what has been measured or described is not repeated.

    Nets of the paper's configurations D and E, given or trained here, describe the photographs of other data sets,
    and linear classifiers learn them. The first rank does this alone; the others only train.

    Args:
        folders: the data sets: "voc2007", "voc2012" (for Table 12, too), "caltech101", "caltech256". Each is what
            `open_transfer_data` takes. Data sets without a folder are left out.
        size: a preset, or the name of one, which maps the paper's Q to scales.
        tables: table11, table12 or both.
        nets: runs or weight files of nets D and E, or one of them; if empty, the plan's D-jitter and E-jitter are
            trained on `data` first.
        data: as for `reproduce`; only needed without `nets`.
        seeds: as for `reproduce`; only used without `nets`.
        out: the folder of the experiment: transfer-tables.json and the report as transfer-tables.html and .md.
        device: as for `reproduce`.
        precision: as for `reproduce`.
        workers: as for `reproduce`.
        micro_batch: as for `reproduce`.
        deterministic: as for `reproduce`.
        skip_unreadable: whether to leave out photographs that cannot be read, and name each.

    Returns:
        The measurements of this call and of earlier ones on the same folder, which `out` holds, too.

    Raises:
        UserError: for wrong arguments, data or nets, or a folder with an experiment of another preset.
        Interrupted: after SIGTERM or Ctrl-C in a training, once everything is saved; the same call resumes.
    """
    options = Options(device, precision, workers, micro_batch, deterministic)
    request = request_of(folders, size, tables, Path(out), options, skip_unreadable)
    found = earlier(request)
    with ranks(device, deterministic) as here:
        opened = {name: opened_data(name, folder) for name, folder in request.folders.items()}
        if nets:
            several: dict[int | None, dict[str, str | Path]] = {None: given_nets(nets, request)}
        elif data is None:
            raise UserError(NO_NETS)
        else:
            several = _trained(request, data, seeds, here)
        first = here.first
    if not first:
        return found
    for seed, paths in several.items():
        for table, name in columns_of(request):
            found = _column(request, found, table, name, opened[name], paths, seed)
    write_transfer_report(found, request.out)
    return found


def columns_of(request: Request) -> list[tuple[Table, str]]:
    """Return the requested tables with each of their data sets that has a folder."""
    return [(table, name) for table in request.tables for name in table.columns if name in request.folders]


def request_of(
    folders: Mapping[str, str | Path],
    size: str | Preset,
    tables: Iterable[str],
    out: Path,
    options: Options,
    skip_unreadable: bool,
) -> Request:
    """Check the arguments of `reproduce_transfer` that need no data.

    Raises:
        UserError: for an unknown data set or table, a table without data, or a preset without the scales.
    """
    flags = {protocol.flag for protocol in PROTOCOLS.values()}
    if unknown := sorted(set(folders) - flags):
        raise UserError(f"unknown data set {unknown[0]!r}; choose from {', '.join(sorted(flags))}")
    by_name = {name: folders[each.flag] for name, each in PROTOCOLS.items() if each.flag in folders}
    chosen = chosen_tables(tables, by_name)
    columns = {name for table in chosen for name in table.columns}
    wanted = {name: folder for name, folder in by_name.items() if name in columns}
    found = size if isinstance(size, Preset) else preset(size)
    needed = {scale for name in wanted for scale in PROTOCOLS[name].scales}
    if missing := sorted(needed - found.scales.keys()):
        raise UserError(
            f"preset {found.name}: no scale for the paper's {', '.join(map(str, missing))}; add it to [scales]"
        )
    return Request(chosen, wanted, found, out, options, skip_unreadable)


def earlier(request: Request) -> TransferTables:
    """Return the measurements that are in the folder, with the requested tables added."""
    there = TransferTables(request.preset.name, ())
    if exists(request.out / RESULTS):
        try:
            there = read_transfer_tables(request.out)
        except UserError as error:
            say(f"{error}; it will be made again")
        if there.preset != request.preset.name:
            raise UserError(
                f"{request.out} contains Tables 11 and 12 with preset {there.preset}, not {request.preset.name}; "
                "choose another folder with --out"
            )
    asked = {*there.tables, *(table.name for table in request.tables)}
    return replace(there, tables=tuple(name for name in TABLES if name in asked))


def opened_data(name: str, folder: str | Path) -> TransferData:
    """Open a data set, and check that it is of the kind that its column needs."""
    protocol = PROTOCOLS[name]
    data = open_transfer_data(folder, protocol.task)
    if data.single != protocol.single:
        kind = (
            "exactly one class per photograph" if protocol.single else "several classes per photograph, as VOC has"
        )
        raise UserError(f"--{protocol.flag} {folder}: {name} needs {kind}")
    splits_for(name, data)
    return data


def splits_for(name: str, data: TransferData) -> tuple[Split, ...]:
    """Return the splits of a data set by the paper's protocol: the official one, or three random ones.

    Raises:
        UserError: if a class has too few photographs.
    """
    protocol = PROTOCOLS[name]
    return splits_of(data, None, protocol.training_images, protocol.test_images)


def given_nets(nets: Sequence[str | Path], request: Request) -> dict[str, str | Path]:
    """Return the given nets by configuration.

    Raises:
        UserError: for another configuration than D and E, two nets of one, or a table that needs both.
    """
    found: dict[str, str | Path] = {}
    for net in nets:
        name = tested(net).card.architecture.configuration
        if name not in NETS:
            raise UserError(f"{net} is a net {name}; Tables 11 and 12 are of nets {' and '.join(NETS)}")
        if name in found:
            raise UserError(f"{found[name]} and {net} are both nets {name}; pass one of each configuration")
        found[name] = net
    for table in request.tables:
        settings = [each for name in table.columns for each in settings_of(table, name)]
        if not any(set(each.nets) <= set(found) for each in settings):
            raise UserError(f"{table.name} is of nets {' and '.join(NETS)} together; pass both with --nets")
    return found


def _trained(
    request: Request, data: str | Path, seeds: int | Sequence[int], here: Ranks
) -> dict[int | None, dict[str, str | Path]]:
    """Train the nets of the plan that are transferred, and those they start from, unless they are trained."""
    request.options.computing(here.device).check(here.device)
    experiment = prepare(
        data, request.preset, (), seeds, request.out, request.options, here, request.skip_unreadable
    )
    rows = tuple(Row((Tested(name, ()),)) for name in NETS.values())
    trainings = needed_trainings([TrainedTable("", "", rows)])
    steps = [(seed, training) for seed in experiment.seeds for training in trainings]
    for number, (seed, training) in enumerate(steps, 1):
        train_step(experiment, training, seed, f"[{number}/{len(steps)}] {training.name}, seed {seed}")
        here.wait()
    return {seed: {net: experiment.folder(name, seed) for net, name in NETS.items()} for seed in experiment.seeds}


def _column(
    request: Request,
    found: TransferTables,
    table: Table,
    name: str,
    data: TransferData,
    nets: Mapping[str, str | Path],
    seed: int | None,
) -> TransferTables:
    """Measure a data set with the nets of a seed; what is measured is stored at once."""
    weights = {net: _weights(path) for net, path in nets.items()}
    content = fingerprint(data)
    for setting in settings_of(table, name):
        if not set(setting.nets) <= set(nets):
            continue
        scales = tuple(request.preset.scale(each) for each in setting.scales)
        precision, several = request.options.precision, [weights[net] for net in setting.nets]
        key = store.key("transfer", FORMAT, several, setting, PROTOCOLS[name], scales, precision, content)
        if any((each.key, each.seed) == (key, seed) for each in found.of(setting)):
            continue
        own = "" if seed is None else f", seed {seed}"
        say(f"{setting}{own}")
        result, draws = _measured(request, setting, scales, data, [nets[net] for net in setting.nets])
        measured = Measured(setting, seed, key, content, result, draws)
        others = tuple(each for each in found.measured if _stays(each, measured))
        found = replace(found, measured=(*others, measured))
        write_transfer_tables(found, request.out)
    return found


def _measured(
    request: Request,
    setting: Setting,
    scales: Sequence[int],
    data: TransferData,
    nets: Sequence[str | Path],
) -> tuple[TransferResult, tuple[float | None, ...]]:
    """Measure a setting; return the result, and the measure on each bootstrap sample."""
    vectors = described(
        nets,
        data,
        scales=scales,
        aggregation=setting.aggregation,
        boxes=setting.boxes,
        device=request.options.device,
        precision=request.options.precision,
        workers=request.options.workers,
        skip_unreadable=request.skip_unreadable,
    )
    splits = splits_for(setting.data_set, vectors.data)
    images = training_images_of(vectors.data, PROTOCOLS[setting.data_set].training_images)
    result, judged = judged_on(vectors, splits, images)
    draws = resampled(result.measure, judged).tolist()
    return result, tuple(None if isnan(each) else round(each, 6) for each in draws)


def _stays(earlier: Measured, new: Measured) -> bool:
    """Return whether an earlier measurement stays next to a new one: another setting, on the same photographs."""
    if earlier.setting.data_set != new.setting.data_set:
        return True
    return earlier.content == new.content and (earlier.setting, earlier.seed) != (new.setting, new.seed)


def _weights(path: str | Path) -> str:
    """Return the digest of a net's weight file."""
    file = tested(path).file
    assert file is not None
    return digest(file)


def fingerprint(data: TransferData) -> str:
    """Return what identifies a data set: classes, labels, parts and boxes, and its photographs as files."""
    found = hashlib.sha256(repr((data.classes, data.measure)).encode() + data.labels.tobytes())
    for name, rows in sorted(data.parts.items()):
        found.update(name.encode() + rows.tobytes())
    found.update(b"" if data.boxes is None else data.boxes.tobytes())
    for photograph in data.photographs:
        found.update(identity(photograph))
    return found.hexdigest()
