"""Build the sdist and the wheel, and use the wheel as a new user would: `make package`.

The wheel is built from the sdist, which proves that the sdist is complete. It is then installed into a fresh
environment, and used from a folder outside the checkout.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
SOURCES = ROOT / "src" / "verydeep"
NET = "--net A --crop 32 --width 0.125 --fully-connected 16 --initialisation glorot"
PLAN = "reproduce table3 --data digits --preset digits --dry-run --json"
TRAINING = f"train digits {NET} --batch 64 --epochs 1 --out run"


def run(*command: str | Path, folder: Path = ROOT, **variables: str) -> str:
    """Run a command that must succeed, and return its standard output; its errors go to the terminal."""
    print("+", *command, flush=True)
    words = [str(word) for word in command]
    variables = os.environ | variables
    done = subprocess.run(words, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\nmake package: exit code {done.returncode} of: {' '.join(words)}")
    return done.stdout


def expect(holds: bool, otherwise: str) -> None:
    """Stop with the message `otherwise` unless `holds`."""
    if not holds:
        sys.exit(f"make package: {otherwise}")


def built() -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it, and return both paths."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT, VERYDEEP_BUILD="strict")
    files = sorted(DIST.iterdir())
    expect(len(files) == 2, f"dist contains {[file.name for file in files]} instead of one sdist and one wheel")
    wheel, sdist = sorted(files, key=lambda file: file.suffix != ".whl")
    expect("-py3-none-" in wheel.name, f"{wheel.name} is not for every Python 3")
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    """Check that both have every module, the sdist the C++, the wheel the libraries and nothing else."""
    python = {str(file.relative_to(SOURCES.parent)) for file in SOURCES.rglob("*.py")} | {"verydeep/py.typed"}
    libraries = {f"verydeep/engine/_{name}.so" for name in ("avx512", "avx2", "plain")}
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    data = {
        str(file.relative_to(SOURCES.parent))
        for pattern in (
            "experiments/presets/*.toml",
            "experiments/localisation/presets/*.toml",
            "experiments/pages/*.css",
            "published/*.toml",
            "published/*.txt",
        )
        for file in SOURCES.glob(pattern)
    }
    whole = python | libraries | data
    expect(inside == whole, f"the wheel has extra or missing files: {inside ^ whole}")
    native = {f"src/verydeep/engine/native/{file.name}" for file in (SOURCES / "engine" / "native").iterdir()}
    wanted = (
        {"setup.py", "pyproject.toml", "LICENSE", "README.md"} | native | {f"src/{name}" for name in python | data}
    )
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    expect(wanted <= inside, f"the sdist lacks {wanted - inside}")
    expect(not any(name.endswith(".so") for name in inside), "the sdist contains compiled files")


def use(wheel: Path, folder: Path) -> None:
    """Install the wheel into a fresh environment; run its engine, an experiment's plan, a training and a test."""
    venv.create(folder / "env", with_pip=True)
    binary = folder / "env" / "bin"
    run(binary / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, folder=folder)
    place = run(binary / "python", "-c", "import verydeep; print(verydeep.__file__)", folder=folder)
    expect(place.startswith(str(folder)), f"verydeep was imported from {place.strip()}")

    verydeep = binary / "verydeep"
    for library in ("", "plain"):  # the best library for this processor; the one for any processor
        shown = json.loads(run(verydeep, "engine", "--json", folder=folder, VERYDEEP_ENGINE=library))
        used = [row["path"] for row in shown]
        expect("winograd" in used, f"the engine {library or 'of this processor'} is not used: {used}")

    planned = json.loads(run(verydeep, *PLAN.split(), folder=folder))
    expect(planned["preset"] == "digits", "the presets were not found")
    run(verydeep, *TRAINING.split(), folder=folder)
    (row,) = json.loads(run(verydeep, "test", "run", "digits", "--scales", "32", "--json", folder=folder))
    expect(row["images"] == 360, f"digits has 360 validation images, but {row['images']} were tested")


if __name__ == "__main__":
    sdist, wheel = built()
    check_contents(sdist, wheel)
    with tempfile.TemporaryDirectory() as folder:
        use(wheel, Path(folder).resolve())
    print(f"make package: {sdist.relative_to(ROOT)} and {wheel.relative_to(ROOT)} work")
