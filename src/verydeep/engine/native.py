"""The native library behind the operators: choosing the one for this processor, and calling it.

It is plain C++ called through ctypes, so that building it needs no torch and using it no particular release of
torch. It is compiled for AVX-512, for AVX2 and for any processor; torch reports at run time what this processor
supports.
"""

import ctypes
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verydeep.engine import interface
from verydeep.engine.schedule import KEPT, Program
from verydeep.errors import UserError
from verydeep.torch_internals import user_level

VARIABLE = "VERYDEEP_ENGINE"
"""Name of the environment variable that chooses the library.

- unset or `auto`: the fastest library that the processor can run; a warning if there is none.
- `required`: the same, but an error if there is none.
- `off`: no library.
- a name in `LIBRARIES`, or the path of a library (for example one with assertions): that library, or an error.
  Nothing checks that the processor can run a library given by its path.
"""

LIBRARIES = ("avx512", "avx2", "plain")
"""Libraries from the fastest to the one that runs on any processor."""

SUFFIXES = ({"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so"), *EXTENSION_SUFFIXES)
"""Suffixes that the files may have: they do not use Python, but some builds name its version."""

NOTE = Path(__file__).with_name("_unbuilt.txt")
"""File with the compiler's errors, if libraries failed to compile when this package was installed."""

_FUNCTIONS = {
    "convolve": interface.Convolution,
    "fully_connected": interface.FullyConnected,
    "input_gradient": interface.Gradients,
    "run": interface.Program,
    "weight_gradient": interface.Gradients,
}
"""The functions of native/engine.cpp and the structure that each takes."""


class UnusableError(Exception):
    """A library cannot be used; the message says why."""


class Library:
    """The functions of native/engine.cpp.

    Args:
        name: name to print.
        file: path of the library.

    Raises:
        UnusableError: if the library cannot be loaded or belongs to another version of the package.
    """

    def __init__(self, name: str, file: Path) -> None:
        self.name = name
        try:
            self._functions = ctypes.CDLL(str(file))
        except OSError as error:  # the loader names the file itself
            raise UnusableError(f"cannot be loaded: {error}") from error
        self._compare(file)
        for function, structure in _FUNCTIONS.items():
            found = self._function(f"verydeep_{function}", file)
            found.argtypes, found.restype = [ctypes.POINTER(structure)], None
        self._use_large_pages = self._function("verydeep_use_large_pages", file)
        self._use_large_pages.argtypes, self._use_large_pages.restype = [ctypes.c_void_p, ctypes.c_int64], None
        use_pool = self._function("verydeep_use_pool", file)
        use_pool.argtypes, use_pool.restype = [ctypes.c_void_p] * 3, None
        self._sleeps = self._function("verydeep_sleeps", file)
        self._sleeps.restype = ctypes.c_int
        if (pool := loaded("GOMP_parallel")) is not None:
            use_pool(pool, loaded("kmp_get_blocktime"), loaded("kmp_set_blocktime"))

    def _function(self, name: str, file: Path) -> Any:
        try:
            return getattr(self._functions, name)
        except AttributeError:
            raise UnusableError(
                f"has no function {name}: {file} belongs to another version, reinstall the package"
            ) from None

    def _compare(self, file: Path) -> None:
        abi = self._function("verydeep_abi", file)
        abi.restype = ctypes.c_int64
        if (found := abi()) != interface.ABI:
            raise UnusableError(
                f"has ABI number {found}, not {interface.ABI}: "
                f"{file} belongs to another version, reinstall the package"
            )
        description = self._function("verydeep_description", file)
        description.restype = ctypes.c_char_p
        found, wanted = (text.splitlines() for text in (description().decode(), interface.description()))
        if found != wanted:
            differing = next((line for line in wanted if line not in found), "nothing more").split(":")[0]
            raise UnusableError(
                f"has other structures ({differing}): {file} belongs to another version, reinstall the package"
            )

    def call(self, function: str, structure: ctypes.Structure) -> None:
        """Run a function with as many threads as torch uses."""
        structure.threads = torch.get_num_threads()
        getattr(self._functions, f"verydeep_{function}")(structure)

    def run(self, program: Program, parameters: Sequence[Tensor], x: Tensor, y: Tensor) -> None:
        """Run a program.

        Args:
            program: the calls to carry out.
            parameters: weights and bias of each layer, in turn.
            x: input of the first layer.
            y: where the output of the last layer is written.
        """
        pointers = (ctypes.c_void_p * len(parameters))(*[tensor.data_ptr() for tensor in parameters])
        own = x.new_empty(program.workspace) if program.workspace > KEPT else None
        self.call(
            "run",
            interface.Program(
                calls=ctypes.addressof(program.table),
                parameters=ctypes.addressof(pointers),
                x=x.data_ptr(),
                y=y.data_ptr(),
                workspace=address(own),
                count=len(program.calls),
                layers=len(parameters) // 2,
                inputs=x.numel(),
                outputs=y.numel(),
                floats=program.workspace,
            ),
        )

    def waits_asleep(self) -> bool:
        """Return whether waiting threads sleep because other processes use their cores; see native/waiting.hpp."""
        return bool(self._sleeps())

    def use_large_pages(self, memory: Tensor) -> None:
        """Ask the system for huge pages for a tensor to which nothing has been written yet."""
        self._use_large_pages(memory.data_ptr(), memory.nbytes)


def address(tensor: Tensor | None) -> int | None:
    """Return the address of a tensor's data; None stands for a null pointer."""
    return None if tensor is None else tensor.data_ptr()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """Return whether there is a library to use."""
    return library() is not None


@cache
def library() -> Library | None:
    """Return the library to use, or None if the engine is off or no library is usable, which also warns.

    Raises:
        UserError: if the environment variable has a value that is not allowed, or names a library that cannot be
            used.
    """
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted == "off":
        return None
    built = {name: file for name in LIBRARIES if (file := _file(name)) is not None}
    if wanted not in ("auto", "required"):
        return _asked_for(wanted, built)
    runnable = runnable_here()
    reasons = [] if any(name in built for name in runnable) else [_why_none(built)]
    found = None
    for name in runnable:
        if found is None and name in built:
            try:
                found = Library(name, built[name])
            except UnusableError as reason:
                reasons.append(str(reason))
    if found is None and wanted == "required":
        raise UserError(f"{VARIABLE} is 'required', but the convolution engine {'; it '.join(reasons)}")
    if reasons:
        instead = f"its library {found.name}" if found else "torch's slower convolutions"
        text = f"the convolution engine {'; it '.join(reasons)}; nets compute on the CPU with {instead}"
        warnings.warn(text, stacklevel=user_level())
    return found


def _asked_for(wanted: str, built: dict[str, Path]) -> Library:
    """Load the library with this name or at this path."""
    runnable = [name for name in runnable_here() if name in built]
    path = Path(wanted)
    if wanted not in runnable and not (path.name != wanted or path.suffix):
        allowed = ", ".join([*runnable, "auto", "required", "off"])
        raise UserError(f"{VARIABLE} is {wanted!r}; use {allowed}, or the path of a library")
    try:
        return Library(wanted, built[wanted]) if wanted in runnable else Library(path.stem, path.absolute())
    except UnusableError as reason:
        raise UserError(f"{VARIABLE} is {wanted!r}, but that library {reason}") from reason


def runnable_here() -> tuple[str, ...]:
    """Return the names of the libraries that this processor can run, fastest first."""
    return LIBRARIES[{"AVX512": 0, "AVX2": 1}.get(torch.backends.cpu.get_cpu_capability(), 2) :]


def _why_none(built: dict[str, Path]) -> str:
    """Say why there is no library that this processor can run."""
    if built:
        return f"was built only for {' and '.join(built)}, and this processor runs {' and '.join(runnable_here())}"
    if NOTE.exists():
        said = NOTE.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["the compiler failed"]
        return f"was not built when this package was installed: {said[0]} (more in {NOTE})"
    if (compiler := shutil.which(os.environ.get("CXX") or "c++")) is None:
        return (
            "was not built when this package was installed, since there is no C++ compiler: "
            "install one, then reinstall the package"
        )
    return (
        f"was not built when this package was installed, but there is a C++ compiler now ({compiler}): "
        "reinstall the package"
    )


def _file(name: str) -> Path | None:
    folder = Path(__file__).parent
    return next((file for suffix in SUFFIXES if (file := folder / f"_{name}{suffix}").exists()), None)


def loaded(function: str) -> int | None:
    """Return the address of a function in the OpenMP library that torch has loaded, or None if it has none.

    `GOMP_parallel` runs work on torch's own threads: in GNU's OpenMP, and in LLVM's and Intel's on Linux.
    """
    if os.name != "posix":
        return None
    try:
        return ctypes.cast(ctypes.CDLL(None)[function], ctypes.c_void_p).value
    except AttributeError:
        return None
