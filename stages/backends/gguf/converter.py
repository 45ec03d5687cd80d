"""llama.cpp's converters, which are scripts, each run in a child process."""

from __future__ import annotations

import logging
import os
import re
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from stages.errors import InsufficientResources, InvalidInput, MissingPackage, StageError, StageKilled
from stages.formats import converter_source


def run_converter(script: str, arguments: Sequence[str]) -> None:
    """Run one of llama.cpp's converters in a child process. Raises as `converter_error` reads its words.

    The child is a fork: it has imported what this process has, which saves seconds of a conversion. Its words
    come through a pipe: a full disk, of which they tell, would not take them.
    """
    ours, theirs = os.pipe()
    child = _fork(converter_source.home() / script, arguments, ours, theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as stream:
        try:
            words = stream.read()
            _, status = os.waitpid(child, 0)
        except BaseException:
            with suppress(ProcessLookupError, ChildProcessError):  # it was gone by then
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            raise
    returncode = os.waitstatus_to_exitcode(status)
    if returncode:
        raise converter_error(words.decode("utf-8", "replace"), returncode)


def _fork(script: Path, arguments: Sequence[str], ours: int, theirs: int) -> int:
    """The child's pid; of the pipe it writes to `theirs`."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():  # of threads that the child does not have
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os.close(ours)
        _become(script, arguments, theirs)
    return child


def _become(script: Path, arguments: Sequence[str], words: int) -> NoReturn:
    """Be the script as if Python had just started with it; `words`, a descriptor, gets its stderr."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(words, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
        folders = [script.parent, script.parent / "gguf-py"]
        _forget_the_parent({entry.stem for folder in folders for entry in folder.iterdir()})
        sys.argv = [str(script), *arguments]
        sys.path[:0] = [str(folder) for folder in folders]
        runpy.run_path(str(script), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:  # nothing may lead back to the frames of the parent, which would go on twice
            os._exit(status)


def _forget_the_parent(own: Set[str]) -> None:
    """Drop what a new process would not have: handlers, filters, threads, packages named like its `own`."""
    logging.root.handlers.clear()
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]

    import huggingface_hub.constants
    import torch

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    torch.set_num_threads(1)


def converter_error(stderr: str, returncode: int) -> StageError:
    """What the converter's last words mean for the user."""
    lines = [line for line in re.split(r"[\r\n]+", stderr) if line.strip()]
    last = lines[-1] if lines else "no message"
    if returncode < 0:
        return StageKilled(f"llama.cpp's converter was killed by signal {-returncode}; memory may be short")
    if "pre-tokenizer was not recognized" in stderr:
        digest = re.search(r"chkhsh:\s*([0-9a-f]{64})", stderr)
        return InvalidInput(
            "llama.cpp does not know how this tokenizer cuts text before it looks up tokens (pre-tokenizer "
            f"hash {digest[1] if digest else 'unknown'}); with a wrong guess the model would read other "
            "tokens than it was trained on: use a base whose tokenizer llama.cpp knows, a newer "
            "llama-cpp-python, or method: gptq"
        )
    if unsupported := re.search(r"Model (\S+) is not supported", stderr):
        return InvalidInput(
            f"llama.cpp cannot convert the architecture {unsupported[1]}; use a newer llama-cpp-python "
            "or method: gptq"
        )
    if missing := re.search(r"No module named '([^']+)'", last):
        return MissingPackage(
            f"llama.cpp's converter needs the package {missing[1]!r}; install it with: "
            f"pip install {missing[1]}"
        )
    if "No space left on device" in stderr:
        return InsufficientResources("the disk became full while the GGUF was written; make room")
    if "Can not map tensor" in last:
        return InvalidInput(f"llama.cpp's converter cannot map a tensor of this model: {last}")
    return StageError(f"llama.cpp's converter failed: {last}")
