"""Run the paper's experiments on imagenette, on a GPU without a network, in one command of under nine minutes.

    python benchmarks/gpu_imagenette.py pack IMAGENETTE FOLDER
    python benchmarks/gpu_imagenette.py run FOLDER OUT

`pack`, on a machine with a network, puts everything that has to be copied into FOLDER: the photographs in two
halves below 64 MiB each, so that they can be copied one after the other, and the wheels of this package and of
those dependencies that machines set up for PyTorch usually lack. `run`, on the machine with the GPU, needs FOLDER,
this script, and a Python with torch, numpy, Pillow, safetensors, scikit-learn, scipy, jaxtyping and rich. It
unpacks everything into a temporary folder and runs the plan with the preset imagenette-gpu. After each step it
copies the results so far to OUT: results.json (with the curves of the trainings), times.json and
outcomes.safetensors. So at most one step is lost if it is killed.

On an NVIDIA H200 this computed 14 of the 22 trainings and 64 of the 79 rows (results/imagenette-gpu).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
HALVES = ("photographs-1.zip", "photographs-2.zip")
LARGEST = 64 * 2**20
"""Size in bytes that a half has to stay below."""

WHEELS = "wheels"
LACKING = (
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_inspection",
    "typing_extensions",
    "simplejpeg",
    "tomli_w",
)
"""Dependencies of this package besides those that `run` expects; packed in the versions installed for `pack`."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

SECONDS = 520.0
"""Default time limit of `run`: nine minutes, minus the time to start and to end."""
END_SECONDS = 10.0
"""Time for the plan to end by itself when its time is up."""
LOOK_SECONDS = 1.0
"""Interval at which `run` looks for new results."""
RESULTS = ("results.json", "times.json", "outcomes.safetensors")


def pack(data: Path, folder: Path) -> None:
    """Pack the photographs of a data set into two archives, with the same bytes every time.

    Args:
        data: folder with train/CLASS/* and val/CLASS/*.
        folder: folder for the archives.

    Raises:
        SystemExit: if there is no such data set, or a half would be too large; with a line that says so.
    """
    from verydeep.datasets.dataset import open_dataset
    from verydeep.errors import UserError

    try:
        found = [*open_dataset(data, "train").photographs, *open_dataset(data, "val").photographs]
    except UserError as error:
        raise SystemExit(str(error)) from error
    files = sorted(path for path in found if isinstance(path, Path))
    whole = sum(file.stat().st_size for file in files)
    folder.mkdir(parents=True, exist_ok=True)
    packed = 0
    archives = [zipfile.ZipFile(folder / name, "w", zipfile.ZIP_STORED) for name in HALVES]
    for file in files:
        # Compression does not make JPEG files smaller. Without times, the same files give the same bytes.
        entry = zipfile.ZipInfo(file.relative_to(data).as_posix())
        archives[2 * packed >= whole].writestr(entry, file.read_bytes())
        packed += file.stat().st_size
    for archive in archives:
        archive.close()
    for name in HALVES:
        size = (folder / name).stat().st_size
        if size >= LARGEST:
            raise SystemExit(
                f"{folder / name} has {size / 2**20:.1f} MiB and must have less than {LARGEST / 2**20:.0f}; "
                "use fewer or smaller photographs"
            )
        print(f"{folder / name}: {size / 2**20:.1f} MiB")


def pack_wheels(folder: Path, python: str) -> None:
    """Put the wheels of this package and its dependencies into a folder, for one Python on x86-64 Linux."""
    wheels = folder / WHEELS
    shutil.rmtree(wheels, ignore_errors=True)  # with two versions of one package the installation would fail
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT], check=True)
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    wanted = [f"{name}=={version(name)}" for name in LACKING]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    subprocess.run([*pip, "download", *options, *platforms, "--dest", wheels, *wanted], check=True)
    for file in sorted(wheels.iterdir()):
        print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")


def unpack(folder: Path, data: Path) -> None:
    """Unpack the photographs from both halves.

    Raises:
        SystemExit: if a half is missing or damaged; with a line that names it.
    """
    for name in HALVES:
        try:
            with zipfile.ZipFile(folder / name) as archive:
                archive.extractall(data)  # never writes outside the folder
        except (OSError, zipfile.BadZipFile) as error:
            raise SystemExit(
                f"cannot read {folder / name}: {error}; make it with pack, and copy both halves"
            ) from error


def install(folder: Path, site: Path) -> Mapping[str, str]:
    """Install the packed wheels, if there are any, and return an environment in which Python finds them."""
    wheels = sorted((folder / WHEELS).glob("*.whl"))
    if not wheels:
        return os.environ
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))}


def run(folder: Path, out: Path, plan: Sequence[str], seconds: float) -> int:
    """Unpack, and run the plan until it is done or the time is up.

    Args:
        folder: folder made by `pack`.
        out: folder for the results, which are copied there after each step and at the end.
        plan: arguments of the plan besides its data and folder.
        seconds: time limit for everything.

    Returns:
        The exit status of the plan; not 0 if it was terminated.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        data, here = scratch / "imagenette", scratch / "experiment"
        unpack(folder, data)
        environment = install(folder, scratch / "site")
        command = [sys.executable, __file__, "plan", str(data), str(here), *plan]
        return watch(command, environment, here, out, seconds - (time.monotonic() - started))


def watch(command: Sequence[str], environment: Mapping[str, str], here: Path, out: Path, seconds: float) -> int:
    """Run a command, copy its results whenever there are new ones, and terminate it when the time is up.

    Args:
        command: the command.
        environment: its environment.
        here: folder to which it writes results.
        out: folder to which they are copied.
        seconds: its time limit.

    Returns:
        Its exit status.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            try:
                process.wait(max(0.0, min(LOOK_SECONDS, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                copy_results(here, out)
                if time.monotonic() >= end:
                    print(f"the time is up: ending the plan after {seconds:.0f} s", flush=True)
                    end_process(process)
    copy_results(here, out)
    return process.returncode


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def copy_results(here: Path, out: Path) -> None:
    """Copy the results that are newer than their copies; each copy is complete or absent."""
    for name in RESULTS:
        source, copy = here / name, out / name
        if source.exists() and (not copy.exists() or source.stat().st_mtime_ns > copy.stat().st_mtime_ns):
            aside = out / f".{name}.part"
            shutil.copy2(source, aside)
            aside.replace(copy)


def plan(arguments: argparse.Namespace) -> None:
    """Run the plan itself, in a separate process that finds the wheels."""
    import torch

    from verydeep.errors import Interrupted, UserError
    from verydeep.experiments.reproduction import reproduce

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, {gpu}, {os.cpu_count()} cores", flush=True)
    try:
        reproduce(
            arguments.data,
            arguments.preset,
            arguments.tables,
            out=arguments.out,
            device=arguments.device,
            precision=arguments.precision,
            workers=arguments.workers,
        )
    except (UserError, Interrupted) as error:
        raise SystemExit(str(error)) from error


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="put everything that has to be copied into a folder")
    packing.add_argument("data", type=Path, help="imagenette: train/CLASS/* and val/CLASS/*")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--python", default="3.12", help="Python of the machine with the GPU [default: 3.12]")
    running = commands.add_parser("run", help="unpack the folder and run the plan")
    running.add_argument("folder", type=Path)
    running.add_argument("out", type=Path, help="folder for the results")
    running.add_argument("--seconds", type=float, default=SECONDS, help="time limit [default: %(default)s]")
    inside = commands.add_parser("plan", help="used by run itself")
    inside.add_argument("data", type=Path)
    inside.add_argument("out", type=Path)
    for each in (running, inside):
        each.add_argument("--preset", default="imagenette-gpu", help="[default: %(default)s]")
        each.add_argument("--device", default="cuda", help="[default: %(default)s]")
        each.add_argument("--precision", default="bf16", help="[default: %(default)s]")
        each.add_argument("--workers", type=int, default=8, help="loader workers [default: %(default)s]")
        each.add_argument("--tables", nargs="*", default=[], help="table3 to table7 [default: all]")
    return made


def main() -> int:
    arguments = parser().parse_args()
    match arguments.command:
        case "pack":
            pack(arguments.data, arguments.folder)
            pack_wheels(arguments.folder, arguments.python)
        case "run":
            asked = [
                "--preset",
                arguments.preset,
                "--device",
                arguments.device,
                "--precision",
                arguments.precision,
            ]
            asked += ["--workers", str(arguments.workers), "--tables", *arguments.tables]
            return run(arguments.folder, arguments.out, asked, arguments.seconds)
        case _:
            plan(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
