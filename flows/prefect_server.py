"""Prefect's own server, for a run that was not given one: it lives exactly as long as the process that
wanted it, also when that one is killed with -9. `python -m flows.prefect_server` is the server's side.

Prefect would start one by itself, but into the terminal's process group, where Ctrl-C ends it before the run
has reported to it, and with nobody to end it when the run is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.errors import FlowError

START_SECONDS = 180.0
END_SECONDS = 5.0


class PrefectFailed(FlowError):
    """Prefect's server did not start."""

    exit_code = 4


@contextlib.contextmanager
def prefect_server(log: Path) -> Iterator[None]:
    """Within the block flows report to a server; one is started unless the settings name one. It ends with
    this process.

    Raises `PrefectFailed` when it does not start; what it printed is in `log`.
    """
    from prefect.context import FlowRunContext
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value() or FlowRunContext.get() is not None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, start_new_session=True,
            cwd=Path(__file__).resolve().parent.parent,
        )  # fmt: skip
    # Not at the end of the block: Prefect's threads send their last logs and events when this process ends.
    atexit.register(_end, server)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{_port(server, log)}/api"}):
        yield


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    assert server.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        line = server.stdout.readline() if selector.select(START_SECONDS) else b""
    if not line:
        raise PrefectFailed(
            f"Prefect's server did not start within {START_SECONDS:.0f} s; see {log}, or set PREFECT_API_URL "
            "to a server that runs already"
        )
    return int(line)


def _end(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    try:
        server.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    server.stdout.close()


def main() -> None:
    """Serve on a free loopback port, print it once ready, and end when standard input ends."""
    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(listener.getsockname()[1], flush=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        app: Any = create_app(ephemeral=True, final=True)
        server = Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        threading.Thread(target=_end_with_starter, args=(server,), daemon=True).start()
        server.run(sockets=[listener])


def _end_with_starter(server: Any) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    server.should_exit = True
    threading.Timer(END_SECONDS, os._exit, [1]).start()


if __name__ == "__main__":
    main()
