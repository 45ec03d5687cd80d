"""How to start `serving.llama_cpp.server`: llama.cpp for a GGUF file."""

from __future__ import annotations

import importlib.util
import itertools
import socket
import sys
from pathlib import Path

from serving.cores import thread_environment, usable_threads
from serving.engine.settings import EngineSettings
from serving.errors import EngineMissing, NotServable
from serving.process.process import Launch

INSTALL = "pip install 'llama-cpp-python==0.3.36' uvicorn starlette"


def launch(
    path: Path,
    alias: str,
    listener: socket.socket,
    context_length: int,
    threads: int | None,
    *,
    name: str | None = None,
    artifact: str | None = None,
    dtype: str = "auto",
    tool_call_parser: str | None = None,
) -> Launch:
    """How to serve the GGUF file `path` (or `path/model.gguf`) under the name `alias` on `listener`.

    `name`: one more, which people know; `artifact`: an id that each answer's headers tell. A GGUF file says
    in which types it is computed, whatever `dtype` is. Raises `EngineMissing` or `NotServable` before
    anything is started; the latter for a `tool_call_parser`, which is vLLM's.
    """
    if tool_call_parser is not None:
        raise NotServable(
            f"tool_call_parser is {tool_call_parser!r}, which is one of vLLM's; llama.cpp's engine finds out "
            "from the chat template how calls are written: leave it out"
        )
    file = path / "model.gguf" if path.is_dir() else path
    _require_package()
    _require_gguf(file)
    options = {
        "--model": file.resolve(),
        "--alias": alias,
        "--fd": listener.fileno(),
        "--context-length": context_length,
        "--threads": threads or usable_threads(),
        "--name": name,
        "--artifact": artifact,
    }
    given = [(option, str(value)) for option, value in options.items() if value is not None]
    argv = (sys.executable, "-m", "serving.llama_cpp.server", *itertools.chain(*given))
    return Launch(argv, thread_environment(), fds=(listener.fileno(),))


def launch_with_adapters(
    path: Path, alias: str, listener: socket.socket, control: socket.socket, settings: EngineSettings
) -> Launch:
    """The same with adapters beside it, which are loaded and unloaded through `control`.

    Raises as `launch` does.
    """
    options = {
        "--control-fd": control.fileno(),
        "--parallel": settings.parallel,
        "--queue": settings.queue,
        "--adapters": settings.adapters,
    }
    more = map(str, itertools.chain(*options.items()))
    plain = launch(path, alias, listener, settings.context_length, settings.threads)
    # llama.cpp makes its graphs anew for every adapter that comes; glibc would keep the old ones' memory,
    # which is a third of a small adapter's size
    return Launch(
        (*plain.argv, *more),
        {**plain.env, "MALLOC_MMAP_THRESHOLD_": str(1 << 17)},
        (*plain.fds, control.fileno()),
    )


def _require_package() -> None:
    for module in ("llama_cpp", "uvicorn", "starlette"):
        if importlib.util.find_spec(module) is None:
            raise EngineMissing(f"engine llama.cpp: the module {module!r} is not installed; run: {INSTALL}")


def _require_gguf(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise NotServable(
            f"{file}: {error.strerror}; llama.cpp serves a GGUF file: quantize with method: gguf"
        ) from None
    if magic != b"GGUF":
        raise NotServable(
            f"{file} is not a GGUF file (it begins with {magic!r}, not b'GGUF'); quantize with method: gguf"
        )
