"""What a user can put right: wrong arguments, wrong files, wrong folders; and what a user asked for: to stop."""


class UserError(ValueError):
    """Something that the user can put right.

    The message names the thing, says what was given, what is allowed, and what to do. The command line
    prints it as one line and leaves with exit code 2; it never shows a traceback for it.
    """


class Interrupted(Exception):
    """A long work that was asked to stop has saved and stopped.

    Attributes:
        number: number of the signal that asked.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
