"""Compile the convolution engine: one library for each kind of processor, in plain C++ and called through ctypes.

The libraries use neither Python nor torch, so one wheel works with every Python and every torch
(`py3-none-PLATFORM`). They are optional: if one does not compile, the package is installed without it, and the
reason is kept in `verydeep/engine/_unbuilt.txt`. With VERYDEEP_BUILD=strict, compiler warnings are errors, and an
error fails the build.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, OptionError

MODE = os.environ.get("VERYDEEP_BUILD") or "optional"
if MODE not in ("optional", "strict"):
    raise OptionError(f"VERYDEEP_BUILD is {MODE!r}; use 'optional' or 'strict'")

NATIVE = Path("src/verydeep/engine/native")
NOTE = Path("verydeep/engine/_unbuilt.txt")
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

FLAGS = ["-std=c++17", "-O3", "-fvisibility=hidden", "-ffp-contract=fast"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"] if MODE == "strict" else []
PROCESSORS: dict[str, list[str]] = {"plain": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    PROCESSORS["avx2"] = ["-mavx2", "-mfma"]
    PROCESSORS["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]


def reason(error: Exception) -> str:
    """Say what went wrong, without the compiler's arguments."""
    cause = error.args[0] if error.args else error
    if isinstance(cause, subprocess.CalledProcessError):
        return f"{cause.cmd[0]} ended with exit status {cause.returncode}"
    return str(cause)


class Libraries(build_ext):
    """Shared libraries, compiled in parallel, whose names do not contain the version of Python."""

    def finalize_options(self) -> None:
        """Compile on all cores, unless another number is set."""
        super().finalize_options()
        self.parallel = self.parallel or True
        self.failures: list[str] = []

    def run(self) -> None:
        """Compile into the folder from which the package will be imported."""
        self.root = Path("src" if self.inplace or self.editable_mode else self.build_lib)
        super().run()

    def get_ext_filename(self, fullname: str) -> str:
        """Turn `verydeep.engine._plain` into `verydeep/engine/_plain.so`."""
        return str(Path(*fullname.split("."))) + SUFFIX

    def build_extension(self, ext: Extension) -> None:
        """Compile and link in a separate folder, since all libraries have the same source file."""
        file = self.get_ext_filename(ext.name)
        try:
            temporary = str(Path(self.build_temp, ext.name))
            objects = self.compiler.compile(ext.sources, temporary, extra_postargs=ext.extra_compile_args)
            self.compiler.link_shared_object(objects, self.get_ext_fullpath(ext.name), target_lang="c++")
        except (BaseError, CCompilerError, OSError) as error:
            # A library from an earlier build would not match the sources.
            for folder in (self.root, Path(self.build_lib)):
                (folder / file).unlink(missing_ok=True)
            if MODE == "strict":
                raise
            self.failures.append(f"{Path(file).name}: {reason(error)}")

    def build_extensions(self) -> None:
        """Compile all libraries, and write a note about those that failed."""
        super().build_extensions()
        note = self.root / NOTE
        note.unlink(missing_ok=True)
        if self.failures:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text("\n".join(sorted(self.failures)) + "\n", encoding="utf-8")
            self.warn(
                f"libraries of fast convolutions did not compile; verydeep works without them:\n{note.read_text()}"
            )


class Wheel(bdist_wheel):
    """A wheel for one platform and any Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return setuptools' platform, but any Python and no ABI."""
        return "py3", "none", super().get_tag()[2]


setup(
    cmdclass={"build_ext": Libraries, "bdist_wheel": Wheel},
    ext_modules=[
        Extension(
            f"verydeep.engine._{name}",
            sources=[str(NATIVE / "engine.cpp")],
            depends=sorted(map(str, NATIVE.glob("*.hpp"))),
            extra_compile_args=[*FLAGS, *flags, *WARNINGS],
            optional=MODE == "optional",
        )
        for name, flags in PROCESSORS.items()
    ],
)
