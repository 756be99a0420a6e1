"""What the native library is handed: structures as native/interface.hpp has them, where each field is explained.

The library describes its own when it is loaded, and one that describes anything else is refused (native.py). So a
field is changed here and there, and nowhere else.
"""

import ctypes
from typing import ClassVar

ABI = 2
"""What the fields mean and the functions do with them: counts up when that changes, here and there."""

KINDS = ("winograd", "direct", "pair", "whole")
"""How a call is computed, by the number of its kind."""

PLACES = ("input", "workspace", "output")
"""The memories of a program, by number."""

_Fields = list[tuple[str, type[ctypes.c_void_p] | type[ctypes.c_int64]]]


def _fields(pointers: str, integers: str) -> _Fields:
    """Fields by name, in their order: pointers first."""
    found: _Fields = [(name, ctypes.c_void_p) for name in pointers.split()]
    return found + [(name, ctypes.c_int64) for name in integers.split()]


class _Structure(ctypes.Structure):
    __slots__ = ()  # or a field that is misspelt would be a new attribute


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
    """A fully connected layer at each position of a map where its kernel fits."""

    __slots__ = ()
    _fields_: ClassVar[_Fields] = _fields(
        "x weights bias y", "images height width in out kernel_height kernel_width rectify threads"
    )


class Call(_Structure):
    """A step of a program."""

    __slots__ = ()
    _fields_: ClassVar[_Fields] = _fields(
        "",
        "kind layer source source_at to to_at images height width in between out rectify pool tiles shared",
    )


class Program(_Structure):
    """Layers that follow one another: calls in their order."""

    __slots__ = ()
    _fields_: ClassVar[_Fields] = _fields(
        "calls parameters x y workspace", "count layers inputs outputs floats threads"
    )


def description() -> str:
    """What the library has to say of its own structures: names, sizes and places of their fields in bytes."""
    lines = []
    for structure in (Convolution, Gradients, FullyConnected, Call, Program):
        fields = [
            f"{name} {'pointer' if kind is ctypes.c_void_p else 'integer'} {getattr(structure, name).offset}"
            for name, kind in structure._fields_
        ]
        lines.append(f"{structure.__name__} {ctypes.sizeof(structure)}: {', '.join(fields)}")
    lines += [f"kinds: {' '.join(KINDS).upper()}", f"places: {' '.join(PLACES).upper()}"]
    return "".join(f"{line}\n" for line in lines)
