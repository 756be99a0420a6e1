"""Run the tests with every supported pair of Python and torch: `make versions`.

One wheel, built once, is installed into one environment per pair. The environments stay in build/versions for the
next time; a torch with CUDA takes some gigabytes. The tests are those of this checkout, except the slow ones.
Interpreters are found as python3.11, python3.12, ... on the PATH.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "versions"
TABLE = ROOT / "docs" / "versions.md"


def supported() -> list[tuple[str, str]]:
    """Return the pairs of Python and torch in the table of docs/versions.md."""
    row = r"^\| (3\.\d+)(?:\.\d+)? \| (\d+\.\d+\.\d+) \|"
    return re.findall(row, TABLE.read_text(encoding="utf-8"), re.MULTILINE)


def run(*command: str | Path, output: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout, with a strict build of the engine."""
    print("+", *command, flush=True)
    words, variables = [str(word) for word in command], os.environ | {"VERYDEEP_BUILD": "strict"}
    return subprocess.run(words, cwd=ROOT, env=variables, check=False, text=True, capture_output=output)


def environment(python: str, torch: str, wheel: Path) -> Path | None:
    """Return the bin folder of an environment with this Python, torch and wheel; None if it cannot be made."""
    folder = PLACE / f"python{python}-torch{torch}"
    pip = folder / "bin" / "pip"
    if not pip.exists() and run(f"python{python}", "-m", "venv", folder).returncode:
        return None
    if run(pip, "install", "--quiet", f"torch=={torch}", f"{wheel}[test]").returncode:
        return None
    if run(pip, "install", "--quiet", "--no-deps", "--force-reinstall", wheel).returncode:
        return None
    return folder / "bin"


def tested(python: str, torch: str, wheel: Path) -> tuple[bool, str]:
    """Return whether the tests pass with this pair, and one line about it."""
    pair = f"Python {python}, torch {torch}"
    if shutil.which(f"python{python}") is None or run(f"python{python}", "--version", output=True).returncode:
        return False, f"{pair}: python{python} does not run; install it, or set PYENV_VERSION if you use pyenv"
    if (programs := environment(python, torch, wheel)) is None:
        return False, f"{pair}: cannot be installed"
    shown = run(programs / "verydeep", "engine", "--json", output=True)
    paths = {row["path"] for row in json.loads(shown.stdout)} if shown.returncode == 0 else set()
    if "winograd" not in paths:
        return False, f"{pair}: the engine is not used: {shown.stderr.strip() or paths}"
    start = time.monotonic()
    suite = run(programs / "pytest", "--numprocesses", "2", "-m", "not slow", output=True)
    print(suite.stdout, suite.stderr)
    last = suite.stdout.strip().splitlines()[-1]
    return suite.returncode == 0, f"{pair}: {last} ({time.monotonic() - start:.0f} s)"


def main() -> int:
    """Test the pairs given as PYTHON=TORCH, or all supported pairs; return the exit code."""
    known = supported()
    pairs = [tuple(word.split("=")) for word in sys.argv[1:]] or known
    for pair in pairs:
        if pair not in known:
            some = ", ".join(map("=".join, known))
            sys.exit(f"versions: {'='.join(pair)} is not supported; use one of {some} ({TABLE.name})")
    dist = PLACE / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    if run(sys.executable, "-m", "build", "--outdir", dist, ROOT).returncode:
        return 1
    (wheel,) = dist.glob("*.whl")
    results = [tested(python, torch, wheel) for python, torch in pairs]
    for passed, line in results:
        print("passed" if passed else "FAILED", line)
    return 0 if all(passed for passed, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
