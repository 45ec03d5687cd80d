"""Errors of the stages.

StageError                  anything below
├── InvalidInput            the user's data, model or setting is wrong (exit code 3)
├── MissingPackage          an engine's package is not installed (exit code 3)
├── InsufficientResources   memory or disk will not do; said before starting (exit code 3)
├── Diverged                the loss became NaN or infinite (exit code 4)
└── StageKilled             the child process died: out of memory, signal, crash (exit code 4)
"""


class StageError(Exception):
    """The message names the thing, what was expected, what was found and what to do."""

    exit_code = 4


class InvalidInput(StageError):
    exit_code = 3


class MissingPackage(StageError):
    exit_code = 3


class InsufficientResources(StageError):
    exit_code = 3


class Diverged(StageError):
    exit_code = 4


class StageKilled(StageError):
    exit_code = 4
