"""UserError: a mistake that the user can fix; the words that hint at the fix."""

import difflib
import errno
from collections.abc import Iterable

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""The disk is full, the quota is used up, a file or its file system is read-only, or the disk is broken."""


class UserError(ValueError):
    """A wrong argument, file or folder. The message says what, what is allowed, and the next step.

    The command line prints the message alone, without a traceback, and exits non-zero.
    """


class TrainingError(UserError):
    """A training that had begun and came to nothing, for a reason that its user can act upon."""


def did_you_mean(name: str, candidates: Iterable[str], otherwise: str = "", prefix: str = "") -> str:
    """Return "; did you mean X?" with the candidate nearest to a misspelt name.

    Args:
        name: what was written.
        candidates: the valid names.
        otherwise: returned if no candidate is near.
        prefix: put before the candidate, such as "--".
    """
    near = difflib.get_close_matches(name, sorted(set(candidates)), 1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else otherwise
