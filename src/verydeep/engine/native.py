"""The native library behind the operators: which one this processor can run, and how it is called.

It is plain C++ behind ctypes, so that installing needs neither torch nor a certain release of it. It is compiled
for AVX-512, for AVX2 and for any processor; torch says at run time what this one has.
"""

import ctypes
import os
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from verydeep.engine.schedule import KEPT, Program
from verydeep.errors import UserError

VARIABLE = "VERYDEEP_ENGINE"
"""Environment variable: `off`, or the library to use; without it the best that the processor can run."""

LIBRARIES = ("avx512", "avx2", "plain")
"""From the fastest to the one that runs anywhere."""

_pointer, _size, _flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "convolve": [_pointer] * 5 + [_size] * 5 + [_flag] * 2 + [_size] + [_flag] * 2,
    "convolve_directly": [_pointer] * 5 + [_size] * 5 + [_flag] * 3,
    "fully_connected": [_pointer] * 4 + [_size] * 3 + [_flag] * 2,
    "input_gradient": [_pointer] * 5 + [_size] * 5 + [_size] + [_flag] * 2,
    "run": [_pointer, _size] + [_pointer] * 3 + [_size, _pointer, _size, _flag],
    "weight_gradient": [_pointer] * 6 + [_size] * 5 + [_flag, _size, _flag],
}
"""Arguments of the functions in native/engine.cpp."""


class Library:
    """The functions of native/engine.cpp; tensors are passed as they lie in memory, None as null."""

    def __init__(self, name: str, file: Path) -> None:
        self.name = name
        self._functions = ctypes.CDLL(str(file))
        for function, arguments in _SIGNATURES.items():
            found = getattr(self._functions, f"verydeep_{function}")
            found.argtypes, found.restype = arguments, None
        self._functions.verydeep_use_pool.argtypes = [_pointer] * 3
        self._functions.verydeep_use_large_pages.argtypes = [_pointer, _size]
        if (pool := loaded("GOMP_parallel")) is not None:
            self._functions.verydeep_use_pool(pool, loaded("kmp_get_blocktime"), loaded("kmp_set_blocktime"))

    def call(self, function: str, *arguments: Tensor | int | bool | None) -> None:
        """Run a function on as many threads as torch uses."""
        plain = [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
        getattr(self._functions, f"verydeep_{function}")(*plain, torch.get_num_threads())

    def run(self, program: Program, parameters: Sequence[Tensor], x: Tensor, y: Tensor) -> None:
        """Carry out a program: from x to y, with the weights and the bias of each layer."""
        pointers = (_pointer * len(parameters))(*[tensor.data_ptr() for tensor in parameters])
        table, workspace = ctypes.addressof(program.table), program.workspace
        own = x.new_empty(workspace) if workspace > KEPT else None
        self.call("run", table, len(program.calls), ctypes.addressof(pointers), x, y, y.numel(), own, workspace)

    def waits_asleep(self) -> bool:
        """Whether threads sleep where they wait, since other processes use their cores; see native/waiting.hpp."""
        return bool(self._functions.verydeep_sleeps())

    def use_large_pages(self, memory: Tensor) -> None:
        """Ask the system for large pages under a tensor that nothing was written to."""
        self._functions.verydeep_use_large_pages(memory.data_ptr(), memory.nbytes)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """Whether there is a library to use."""
    return library() is not None


@cache
def library() -> Library | None:
    """The library to use, or None where the engine is off or was not built.

    Raises:
        UserError: where the environment variable names a library that is not there or that the processor cannot
            run.
    """
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted == "off":
        return None
    runnable = LIBRARIES[{"AVX512": 0, "AVX2": 1}.get(torch.backends.cpu.get_cpu_capability(), 2) :]
    built = {name: file for name in runnable if (file := _file(name)) is not None}
    if wanted not in (*built, "auto"):
        raise UserError(f"{VARIABLE} is {wanted!r}; here it may be {', '.join([*built, 'auto', 'off'])}")
    reason = "was not built when this package was installed, since there was no C++ compiler"
    for name in built if wanted == "auto" else [wanted]:
        try:
            return Library(name, built[name])
        except (OSError, AttributeError) as error:  # of another version, or without what it is linked to
            reason = f"cannot be loaded ({error})"
    warnings.warn(
        f"the convolution engine {reason}; nets compute on the CPU with torch's slower convolutions", stacklevel=2
    )
    return None


def _file(name: str) -> Path | None:
    folder = Path(__file__).parent
    return next((file for suffix in EXTENSION_SUFFIXES if (file := folder / f"_{name}{suffix}").exists()), None)


def loaded(function: str) -> int | None:
    """Address of a function of the OpenMP that torch has loaded, or None where that one has no such function.

    `GOMP_parallel` runs work on torch's own threads: in GNU's OpenMP, and in LLVM's and Intel's on Linux.
    """
    if os.name != "posix":
        return None
    try:
        return ctypes.cast(ctypes.CDLL(None)[function], _pointer).value
    except AttributeError:
        return None
