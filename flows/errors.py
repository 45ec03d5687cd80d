"""Errors of the flows.

FlowError                anything below
├── InvalidRecipe        a recipe, a key or a setting is wrong (exit code 3)
└── Usage                a command's arguments do not fit together (exit code 3)
"""


class FlowError(Exception):
    """The message names the thing, what was expected, what was found and what to do."""

    exit_code = 4


class InvalidRecipe(FlowError):
    exit_code = 3


class Usage(FlowError):
    exit_code = 3
