"""What a user can put right: wrong arguments, wrong files, wrong folders."""


class UserError(ValueError):
    """Something that the user can put right.

    The message names the thing, says what was given, what is allowed, and what to do. The command line
    prints it as one line and leaves with exit code 2; it never shows a traceback for it.
    """
