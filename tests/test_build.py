"""setup.py: an engine that does not compile is not a failure, unless the build is strict."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools", "77")
if shutil.which("c++") is None:
    pytest.skip("there is no C++ compiler", allow_module_level=True)

ROOT = Path(__file__).parents[1]
GOOD = 'extern "C" __attribute__((visibility("default"))) int seven() { return 7; }\n'
WARNED_OF = GOOD + "static int nobody_calls_this() { return 8; }\n"
BROKEN = "this is no C++;\n"


@pytest.fixture
def build(tmp_path):
    """Return a function that compiles a source in place of the engine; it returns exit code, output, folder."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    engine = tmp_path / "src" / "verydeep" / "engine"
    (engine / "native").mkdir(parents=True)

    def run(source, **variables):
        (engine / "native" / "engine.cpp").write_text(source, encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if name not in ("VERYDEEP_BUILD", "CC", "CXX")}
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(
            command, cwd=tmp_path, env=kept | variables, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr, engine

    return run


def libraries(engine):
    return sorted(path.name for path in engine.glob("_*") if path.suffix != ".txt")


def test_libraries_bear_no_tag_of_the_python_that_built_them(build):
    code, said, engine = build(GOOD)
    assert code == 0, said
    assert "_plain.so" in libraries(engine)
    assert all(name.count(".") == 1 for name in libraries(engine))
    assert ctypes.CDLL(str(engine / "_plain.so")).seven() == 7


@pytest.mark.parametrize("how", ["the source is broken", "there is no compiler"])
def test_what_does_not_compile_is_noted_and_no_failure(build, how):
    assert build(GOOD)[0] == 0
    if how == "the source is broken":
        code, said, engine = build(BROKEN)
    else:
        code, said, engine = build(GOOD, CC="no-compiler", CXX="no-compiler")
    note = (engine / "_unbuilt.txt").read_text(encoding="utf-8")
    assert code == 0, said
    assert "_plain.so: " in note
    assert ("exit status 1" if how == "the source is broken" else "no-compiler") in note
    assert note in said
    assert libraries(engine) == [], "a library compiled from earlier sources was left"
    assert build(GOOD)[0] == 0
    assert not (engine / "_unbuilt.txt").exists()


@pytest.mark.parametrize("source", [BROKEN, WARNED_OF])
def test_a_strict_build_fails_at_errors_and_warnings(build, source):
    assert build(GOOD)[0] == 0
    code, said, engine = build(source, VERYDEEP_BUILD="strict")
    assert code != 0
    assert "error" in said
    assert libraries(engine) == []


def test_a_strict_build_passes_where_there_is_nothing_to_say(build):
    code, said, engine = build(GOOD, VERYDEEP_BUILD="strict")
    assert code == 0, said
    assert "_plain.so" in libraries(engine)


def test_an_unknown_mode_is_refused(build):
    code, said, _ = build(GOOD, VERYDEEP_BUILD="srtict")
    assert code != 0
    assert "VERYDEEP_BUILD is 'srtict'; use 'optional' or 'strict'" in said
