"""Errors of serving.

ServingError                anything below; has an exit code for the command line
├── EngineMissing           the engine's package is not installed (exit code 3)
├── NotServable             the engine cannot read this model, or not in this setting (exit code 3)
├── PortTaken               somebody else listens there (exit code 3)
├── EngineFailed            it died, or was not ready in time; the log's end is in the message (exit code 4)
├── EngineStays             it does not go away, or is somebody else's to end (exit code 4)
├── RequestFailed           the engine refused a request, or answered nonsense (exit code 4)
├── UnknownModel            no model or adapter of this name is served (exit code 3)
├── AdapterRefused          it has no effect, or its name stands for something else (exit code 3)
└── Overloaded              no room for another adapter or answer; later there may be (exit code 4)
"""


class ServingError(Exception):
    """The message names the thing, what was expected, what was found and what to do."""

    exit_code = 4


class EngineMissing(ServingError):
    exit_code = 3


class NotServable(ServingError):
    exit_code = 3


class PortTaken(ServingError):
    exit_code = 3


class EngineFailed(ServingError):
    exit_code = 4


class EngineStays(ServingError):
    exit_code = 4


class RequestFailed(ServingError):
    exit_code = 4


class UnknownModel(ServingError):
    exit_code = 3


class AdapterRefused(ServingError):
    exit_code = 3


class Overloaded(ServingError):
    exit_code = 4
