"""UserError: a mistake that the user can fix; notices; the nearest valid name; a path as the user means it."""

import difflib
import errno
import functools
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""The disk is full, the quota is used up, a file or its file system is read-only, or the disk is broken."""


class UserError(ValueError):
    """A wrong argument, file or folder. The message names it, the values that are allowed, and the next step.

    The command line prints only the message, without a traceback, and exits with a non-zero status.
    """


class TrainingError(UserError):
    """A training failed after it had started, for a reason that the user can fix."""


def notice(text: str) -> None:
    """Log a NOTICE: something that a user should know, and that stops nothing."""
    logging.getLogger("losslab").warning("NOTICE: %s", text)


notice_once = functools.cache(notice)
"""Logs a text once in a process: a study builds the same data, losses and schedules many times."""


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


def expand_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return a path with `~` and $VARIABLES replaced; a shell leaves them in files and after `--option=`.

    Args:
        path: as the user wrote it.
        name: the argument or the variable that holds it, for the message.

    Raises:
        UserError: the path is empty, or a variable in it is unset or empty, or the user after `~` is unknown.
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(os.path.expandvars(text))
    variables = re.findall(r"\$(?:\w+|\{[^}]*\})", text, re.ASCII)  # as os.path.expandvars finds them
    unset = [variable for variable in variables if not os.environ.get(variable.strip("${}"))]
    if (unset or expanded.startswith("~")) and os.path.isfile(text):  # a file of such a name, which a shell found by *
        return Path(text)
    if unset or expanded.startswith("~"):
        what = f"the environment has no {unset[0]}" if unset else f"there is no user {expanded.split('/')[0]}"
        raise UserError(f"{name} is {text!r}, but {what}: set it, or write the path itself.")
    if not text:
        raise UserError(f"{name} is empty: give a path, or leave it out.")
    return Path(expanded)
