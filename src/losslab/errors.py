"""The one exception that stands for a mistake its user can mend, and the faults of a disk."""

import errno

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""The disk is full, the quota is used up, a file or its file system is read-only, or the disk is broken."""


class UserError(ValueError):
    """A wrong argument, file or folder. The message says what, what is allowed, and the next step.

    The command line prints the message alone, without a traceback, and exits non-zero.
    """


class TrainingError(UserError):
    """A training that had begun and came to nothing, for a reason that its user can act upon."""
