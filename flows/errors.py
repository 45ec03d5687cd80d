"""Errors of the flows.

FlowError                anything below
├── InvalidRecipe        a recipe, a key or a setting is wrong (exit code 3)
├── Usage                a command's arguments do not fit together (exit code 3)
└── Pruned               a sweep ended a training that was behind the others; nothing failed
"""

import contextlib
import errno
import signal
import threading
from collections.abc import Iterator

from flows.formatting import plain


class FlowError(Exception):
    """The message names the thing, what was expected, what was found and what to do."""

    exit_code = 4


class InvalidRecipe(FlowError):
    exit_code = 3


class Usage(FlowError):
    exit_code = 3


class Pruned(FlowError):
    """Raised by who watches a step's progress: the step is ended, and shown as pruned."""


_LONGEST_PATH = 200
_REMEDIES = {
    errno.ENOENT: "give the path of something that exists",
    errno.ENOTDIR: "give a path below a directory",
    errno.EISDIR: "give the path of a file",
    errno.EEXIST: "give a new path",
    errno.ENOTEMPTY: "give an empty directory or a new path",
    errno.EACCES: "give this user access, or use another path",
    errno.EPERM: "give this user access, or use another path",
    errno.EROFS: "give a path that can be written",
    errno.ENOSPC: "free some space, or give a path on another disk",
    errno.EDQUOT: "free some space, or give a path on another disk",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "give a path without a loop of links",
    errno.ENXIO: "give the path of a file",
    errno.ENODEV: "give the path of a file",
    errno.EINVAL: "give the path of a file",
}
"""What to do about what the system says of a path; all of it lies outside of this program."""


def of_a_path(error: BaseException) -> Usage | None:
    """The system's refusal of a path in our words; None for an error that says nothing about one."""
    if not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return None
    if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    path = "the disk" if error.filename is None else plain(str(error.filename))
    if len(path) > _LONGEST_PATH:
        path = f"{path[:_LONGEST_PATH]}…"
    return Usage(f"{path}: {(error.strerror or '').lower()}; {_REMEDIES[error.errno]}")


@contextlib.contextmanager
def not_begun(what: str) -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM raise a KeyboardInterrupt that says that `what` did not begin.

    SIGTERM does so in the main thread, where nobody else handles it.
    """
    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        words = str(interrupt) or f"interrupted before {what} began; nothing is recorded"
        raise KeyboardInterrupt(words) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
