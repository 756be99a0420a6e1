"""Text from outside as a page can hold it."""

import re

_SPACES = re.compile(r"[\t\r\n]")
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text on one line, without what no page can hold, or what would turn the order of what follows it.

    Control characters, halves of characters (of file names that are no UTF-8) and marks of direction become the
    replacement character.
    """
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", _SPACES.sub(" ", text))
