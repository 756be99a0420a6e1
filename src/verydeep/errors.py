"""Errors that a user can fix, such as wrong arguments and files, and the interruption that a user asked for."""

import errno

from verydeep.printable import printable


class UserError(ValueError):
    """An error that the user can fix.

    The message names the thing, what was given, what is allowed and what to do. It is one printable line, whatever
    names it contains. The command line prints it without a traceback and exits with code 2.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class Interrupted(Exception):
    """A long computation has saved its work and stopped at a signal.

    Attributes:
        number: number of the signal.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


_ADVICE = {
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "the link points back to itself; remove it",
    errno.EMFILE: "raise the limit with ulimit -n",
    errno.ENFILE: "close other programs",
}
"""What to do, by error number, for errors whose own text does not say it."""


def reason(error: Exception) -> str:
    """Return why the system refused something and what to do about it, without the name of the file."""
    if not isinstance(error, OSError) or error.strerror is None:
        return (str(error).splitlines() or [type(error).__name__])[0]
    advice = _ADVICE.get(error.errno or 0)
    return f"{error.strerror} ({advice})" if advice else error.strerror


def system_error(error: OSError) -> UserError:
    """Return a `UserError` for an error of the system, as one line that names the files."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return UserError(": ".join([" and ".join(names), reason(error)] if names else [reason(error)]))
