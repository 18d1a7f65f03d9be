"""The one exception that stands for a mistake its user can mend, and the faults of a disk."""

import errno

OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""The disk is full, the quota is used up, or the file system has become read-only."""


class UserError(ValueError):
    """A wrong argument, file or folder. The message says what, what is allowed, and the next step.

    The command line prints the message alone, without a traceback, and exits non-zero.
    """
