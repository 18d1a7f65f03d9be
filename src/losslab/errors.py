"""The one exception that stands for a mistake its user can mend."""


class UserError(ValueError):
    """A wrong argument, file or folder. The message says what, what is allowed, and the next step.

    The command line prints the message alone, without a traceback, and exits non-zero.
    """
