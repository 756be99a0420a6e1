"""Text from outside: names of files, classes and tensors, and messages of other programs."""

import unicodedata

_JOINERS = "\u200c\u200d"
"""Zero-width characters that are part of the spelling of Persian, Hindi and emoji."""


def printable(text: str) -> str:
    r"""Return a text as one line that a terminal or a page displays without interpreting it.

    Line breaks, escape sequences, marks that change the direction of text, and other characters without a glyph
    become Python's escapes: `\n`, `\x1b`, `\u202e`. So does a byte of a file name that is not UTF-8: `\xe9`. Text
    that is already printable stays unchanged.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # how Python represents a byte of a file name that it cannot decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def decoded(name: str) -> str:
    r"""Return the name of a file as valid Unicode: a byte that is not UTF-8 becomes an escape, `\xe9`.

    For names that are stored: JSON, TOML and weight files allow nothing else.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
