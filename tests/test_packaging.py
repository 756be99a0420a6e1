"""What pyproject.toml says about the package is true: its dependencies, and the versions that were tested."""

import ast
import re
import runpy
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def distributions(requirements):
    """Names of requirements, normalised as PyPI does."""
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements}


def imported():
    """Names of all packages that the sources import, including Python's and this one."""
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            yield from (module.partition(".")[0] for module in modules)


def test_every_import_is_of_a_declared_dependency_and_every_dependency_is_imported():
    owners = packages_distributions()
    modules = set(imported()) - sys.stdlib_module_names - {"verydeep"}
    extras = PROJECT["optional-dependencies"]
    optional = distributions(extras["tensorboard"] + extras["parquet"]) | {"triton"}  # comes with torch for GPUs
    found = {module: owners.get(module, [module]) for module in modules}  # an extra may be missing here
    needed = {owner.lower().replace("_", "-") for each in found.values() for owner in each}
    assert needed - optional == distributions(PROJECT["dependencies"])


def supported():
    """Pairs of Python and torch that `make versions` tests."""
    return runpy.run_path(str(ROOT / ".ci" / "versions.py"))["supported"]()


def test_supported_versions_are_the_tested_ones():
    pairs = supported()
    pythons = sorted({python for python, _ in pairs}, key=lambda python: int(python.partition(".")[2]))
    torches = [tuple(map(int, torch.split("."))) for _, torch in pairs]
    assert re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])) == pythons
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    oldest = ".".join(map(str, min(torches)[:2]))
    assert f"torch>={oldest}" in PROJECT["dependencies"]


def test_what_is_developed_with_is_a_supported_version():
    (pinned,) = re.findall(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned in {torch for _, torch in supported()}
