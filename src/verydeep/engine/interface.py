"""The structures passed to the native library; native/interface.hpp declares the same and explains each field.

When a library is loaded it describes its own structures, and native.py refuses it if they differ from these. To
change a field, change it in these two files and nowhere else.
"""

import ctypes
from typing import ClassVar

ABI = 2
"""Version of what the fields mean and what the functions do with them. To change it, change both files."""

KINDS = ("winograd", "direct", "pair", "whole")
"""Ways to compute a call; the position is the number in `Call.kind`."""

PLACES = ("input", "workspace", "output")
"""Memories of a program; the position is the number in `Call.source` and `Call.to`."""

_Fields = list[tuple[str, type[ctypes.c_void_p] | type[ctypes.c_int64]]]


def _fields(pointers: str, integers: str) -> _Fields:
    """Return fields with these names in this order, pointers first."""
    found: _Fields = [(name, ctypes.c_void_p) for name in pointers.split()]
    return found + [(name, ctypes.c_int64) for name in integers.split()]


class _Structure(ctypes.Structure):
    __slots__ = ()  # without it, assigning to a misspelt field would add an attribute


class Convolution(_Structure):
    """A 3x3 convolution with padding 1."""

    __slots__ = ()
    _fields_: ClassVar[_Fields] = _fields(
        "x weights bias y winner", "images height width in out rectify pool direct tiles shared threads"
    )


class Gradients(_Structure):
    """The gradients of a 3x3 convolution."""

    __slots__ = ()
    _fields_: ClassVar[_Fields] = _fields(
        "gradient output winner x weights of_x of_weights of_bias",
        "images height width in out direct tiles shared threads",
    )


class FullyConnected(_Structure):
    """A fully connected layer, applied at each position of a map where its kernel fits."""

    __slots__ = ()
    _fields_: ClassVar[_Fields] = _fields(
        "x weights bias y", "images height width in out kernel_height kernel_width rectify threads"
    )


class Call(_Structure):
    """One step of a program."""

    __slots__ = ()
    _fields_: ClassVar[_Fields] = _fields(
        "",
        "kind layer source source_at to to_at images height width in between out rectify pool tiles shared",
    )


class Program(_Structure):
    """Consecutive layers, as calls in order."""

    __slots__ = ()
    _fields_: ClassVar[_Fields] = _fields(
        "calls parameters x y workspace", "count layers inputs outputs floats threads"
    )


def description() -> str:
    """Return the description that the library has to give of its structures: names, sizes and offsets in bytes."""
    lines = []
    for structure in (Convolution, Gradients, FullyConnected, Call, Program):
        fields = [
            f"{name} {'pointer' if kind is ctypes.c_void_p else 'integer'} {getattr(structure, name).offset}"
            for name, kind in structure._fields_
        ]
        lines.append(f"{structure.__name__} {ctypes.sizeof(structure)}: {', '.join(fields)}")
    lines += [f"kinds: {' '.join(KINDS).upper()}", f"places: {' '.join(PLACES).upper()}"]
    return "".join(f"{line}\n" for line in lines)
