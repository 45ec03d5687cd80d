"""How to start `serving.llama_cpp.server`: llama.cpp for a GGUF file."""

from __future__ import annotations

import importlib.util
import socket
import sys
from pathlib import Path

from serving.cores import thread_environment, usable_threads
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
) -> Launch:
    """How to serve the GGUF file `path` (or `path/model.gguf`) under the name `alias` on `listener`.

    `name`: one more, which people know; `artifact`: an id that each answer's headers tell. A GGUF file says
    in which types it is computed, whatever `dtype` is. Raises `EngineMissing` or `NotServable` before
    anything is started.
    """
    file = path / "model.gguf" if path.is_dir() else path
    _require_package()
    _require_gguf(file)
    argv = [
        sys.executable, "-m", "serving.llama_cpp.server", "--model", str(file.resolve()), "--alias", alias,
        "--fd", str(listener.fileno()), "--context-length", str(context_length),
        "--threads", str(threads or usable_threads()),
    ]  # fmt: skip
    argv += [] if name is None else ["--name", name]
    argv += [] if artifact is None else ["--artifact", artifact]
    return Launch(tuple(argv), thread_environment(), fds=(listener.fileno(),))


def launch_resident(
    path: Path,
    alias: str,
    listener: socket.socket,
    control: socket.socket,
    *,
    context_length: int,
    threads: int | None,
    parallel: int,
    queue: int,
    adapters: int,
) -> Launch:
    """The same with up to `adapters` adapters beside it, which are loaded and unloaded through `control`.

    `parallel` answers are decoded at once, `queue` more may wait. Raises as `launch` does.
    """
    more = (
        "--control-fd", str(control.fileno()), "--parallel", str(parallel), "--queue", str(queue),
        "--adapters", str(adapters),
    )  # fmt: skip
    plain = launch(path, alias, listener, context_length, threads)
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
            f"{file} is no GGUF file (it begins with {magic!r}, expected b'GGUF'); quantize with method: gguf"
        )
