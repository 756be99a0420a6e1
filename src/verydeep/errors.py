"""What a user can put right: wrong arguments, wrong files, wrong folders; and what a user asked for: to stop."""

import errno

from verydeep.printable import printable


class UserError(ValueError):
    """Something that the user can put right.

    The message names the thing, says what was given, what is allowed, and what to do. It is one printable line,
    whatever the names in it. The command line prints it and leaves with exit code 2; it never shows a traceback
    for it.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class Interrupted(Exception):
    """A long work that was asked to stop has saved and stopped.

    Attributes:
        number: number of the signal that asked.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


_ADVICE = {
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.ELOOP: "the link leads back to itself; remove it",
    errno.EMFILE: "raise the limit with ulimit -n",
    errno.ENFILE: "close other programs",
}
"""What to do, if the system's own words do not say it."""


def reason(error: Exception) -> str:
    """Why the system refused something, in words, with what to do about it; without the name of the file."""
    if not isinstance(error, OSError) or error.strerror is None:
        return (str(error).splitlines() or [type(error).__name__])[0]
    advice = _ADVICE.get(error.errno or 0)
    return f"{error.strerror} ({advice})" if advice else error.strerror


def system_error(error: OSError) -> UserError:
    """What the system refused, as one line that names the files."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return UserError(": ".join([" and ".join(names), reason(error)] if names else [reason(error)]))
