"""Text from outside: names of files, classes and tensors, and what other programs said."""

import unicodedata

_JOINERS = "\u200c\u200d"
"""Invisible, and part of the spelling of Persian, of Hindi and of emoji."""


def printable(text: str) -> str:
    r"""A text as one line that a terminal or a page shows and does not obey.

    Line breaks, escape sequences, marks that turn the order of what follows, and whatever else has no shape of its
    own become the escapes that Python writes: `\n`, `\x1b`, `\u202e`. So does a byte of a file name that is not
    UTF-8: `\xe9`. What is printable already stays as it is.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte of a file name that it cannot decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def decoded(name: str) -> str:
    r"""The name of a file as characters alone: a byte of it that is not UTF-8 becomes an escape, `\xe9`.

    For names that are stored: JSON, TOML and weight files hold nothing else.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
