"""Run a parser of an untrusted file in a child process that can take neither much time nor much memory.

`python -m stages.untrusted.sandbox` is that child: it takes its limits and its job as one JSON line on
standard input, puts the limits on itself, does the job and writes one JSON document. It has a process group
of its own, and dies with whoever started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from serving.cores import thread_environment
from stages.errors import InvalidInput, StageError

MEBIBYTE = 1 << 20
SCAN_RATE = 50_000_000
"""Bytes of tensors per second of CPU that a scan may take at the slowest; measured: above 500 MB/s."""
_PR_SET_PDEATHSIG = 1
_ADVICE = "it is damaged or hostile: fetch it anew from a source you trust"
_KEPT = 4000
"""Bytes of the child's standard error that are looked at."""


@dataclass(frozen=True)
class SandboxLimits:
    """What the child may take. `mapped_bytes`: files that it may map beside its own memory."""

    cpu_seconds: int = 20
    wall_seconds: float = 60
    memory_bytes: int = 1536 * MEBIBYTE
    output_bytes: int = 64 * MEBIBYTE
    mapped_bytes: int = 0


def limits_for(scanned_bytes: int = 0, mapped_bytes: int = 0) -> SandboxLimits:
    """Limits of a job that reads `scanned_bytes` of tensors besides headers and small files."""
    more = scanned_bytes // SCAN_RATE
    usual = SandboxLimits()
    return SandboxLimits(
        usual.cpu_seconds + more,
        usual.wall_seconds + 4 * more,
        usual.memory_bytes,
        usual.output_bytes,
        mapped_bytes,
    )


def in_sandbox(
    function: str, argument: Any, what: str, limits: SandboxLimits | None = None, advice: str = _ADVICE
) -> Any:
    """Call `MODULE:FUNCTION` with the JSON value `argument` in a sandbox; returns its JSON result.

    `what` names the file in messages, `advice` what to do about a limit. Raises `InvalidInput` when the
    function refuses the file, fails on it, or goes over a limit. The child and all that it started are
    killed then.
    """
    limits = limits or SandboxLimits()
    job = json.dumps({"function": function, "argument": argument, "limits": asdict(limits)}).encode()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "stages.untrusted.sandbox"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            env={**os.environ, **thread_environment(), "PYTHONPATH": _tree()},
        )
        try:
            child.communicate(job + b"\n", limits.wall_seconds)
        except subprocess.TimeoutExpired:
            raise InvalidInput(
                f"{what}: not read after {limits.wall_seconds:g} s, so its reader was stopped; {advice}"
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return _answer(child.returncode, output, errors, what, limits, advice)


def _answer(
    status: int, output: IO[bytes], errors: IO[bytes], what: str, limits: SandboxLimits, advice: str
) -> Any:
    output.seek(0)
    try:
        answer = json.loads(output.read())
    except ValueError:
        answer = {}
    if "result" in answer:
        return answer["result"]
    if "error" in answer:
        raise InvalidInput(answer["error"])
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - _KEPT))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    reasons = {
        -signal.SIGXCPU: f"it took more than {limits.cpu_seconds} s of computing",
        -signal.SIGKILL: f"it took more than {limits.cpu_seconds} s of computing or was killed",
        -signal.SIGXFSZ: f"its description is larger than {limits.output_bytes // MEBIBYTE} MiB",
    }
    reason = reasons.get(
        status, f"its reader ended with status {status} ({lines[-1] if lines else 'no message'})"
    )
    raise InvalidInput(f"{what}: {reason}; {advice}")


def _tree() -> str:
    tree = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return f"{tree}{os.pathsep}{inherited}" if inherited else tree


def _restrict(limits: SandboxLimits) -> None:
    """Limits of the kernel's, so that C code obeys them too."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)  # whoever asked died before the line above
    pages = limits.memory_bytes + limits.mapped_bytes + 4096 * MEBIBYTE  # libraries map much and touch little
    for kind, value in (
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_AS, pages),
        (resource.RLIMIT_FSIZE, limits.output_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))


def _do(job: Mapping[str, Any], limits: SandboxLimits) -> dict[str, object]:
    module, _, name = job["function"].partition(":")
    what = Path(str(job["argument"].get("path", "the file"))).name
    try:
        return {"result": getattr(importlib.import_module(module), name)(**job["argument"])}
    except StageError as error:
        return {"error": str(error)}
    except MemoryError:
        megabytes = limits.memory_bytes // MEBIBYTE
        return {"error": f"{what}: reading it takes more than {megabytes} MiB; it is damaged or hostile"}
    except RecursionError:
        return {"error": f"{what}: it is nested too deeply to be read; it is damaged or hostile"}
    except Exception as error:  # a reader that meets what nobody foresaw: the file is refused all the same
        return {"error": f"{what}: it cannot be understood ({type(error).__name__}: {str(error)[:200]})"}


def main() -> int:
    job = json.loads(sys.stdin.buffer.readline())
    limits = SandboxLimits(**job["limits"])
    answer_to = os.dup(1)
    os.dup2(2, 1)
    _restrict(limits)
    answer = json.dumps(_do(job, limits)).encode()
    with os.fdopen(answer_to, "wb") as stream:
        stream.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
