"""UserError: a mistake that the user can fix; and the hint at the nearest valid name."""

import difflib
import errno
from collections.abc import Iterable

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""The disk is full, the quota is used up, a file or its file system is read-only, or the disk is broken."""


class UserError(ValueError):
    """A wrong argument, file or folder. The message names it, the values that are allowed, and the next step.

    The command line prints only the message, without a traceback, and exits with a non-zero status.
    """


class TrainingError(UserError):
    """A training failed after it had started, for a reason that the user can fix."""


def did_you_mean(name: str, candidates: Iterable[str], otherwise: str = "", prefix: str = "") -> str:
    """Return "; did you mean X?" with the candidate nearest to a misspelt name.

    Args:
        name: the misspelt name.
        candidates: the valid names.
        otherwise: returned if no candidate is near.
        prefix: put before the candidate, such as "--".
    """
    near = difflib.get_close_matches(name, sorted(set(candidates)), 1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else otherwise
