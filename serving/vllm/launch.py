"""How to start vLLM's server, from the environment that vLLM is installed in.

vLLM pins torch exactly, so it lives in an environment of its own: `.venv-vllm` beside the checkout, which
`make vllm` makes, or the one that `TUNELINE_VLLM_PYTHON` names.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from serving.cores import thread_environment, usable_cores
from serving.engine.capabilities import VLLM_RANKS
from serving.engine.settings import EngineSettings
from serving.errors import EngineMissing, NotServable
from serving.process.process import ROOT, Launch
from serving.vllm.thoughts import found_in
from serving.vllm.tool_parsers import tool_options

VARIABLE = "TUNELINE_VLLM_PYTHON"
BESIDE = ROOT / ".venv-vllm" / "bin" / "python"
INSTALL = (
    "make vllm; or, on a machine with CUDA: python -m venv vllm-env && vllm-env/bin/pip install "
    f"vllm==0.32.0 && export {VARIABLE}=$PWD/vllm-env/bin/python"
)
ALONE = ROOT / "serving" / "vllm" / "alone"
"""Where vLLM's environment finds `serving`, and nothing else of ours."""
SCHEMAS = json.dumps({"backend": "guidance", "disable_any_whitespace": True})
"""The library that the llama.cpp engine holds answers with, which bounds what a schema costs."""
CPU_CACHE_BYTES = 1 << 30
"""For keys and values, unless `VLLM_CPU_KVCACHE_SPACE` says how many GiB. vLLM by itself would take most of
the machine's memory, which others live in too."""


@dataclass(frozen=True)
class VllmSettings(EngineSettings):
    """And what only vLLM is told."""

    max_rank: int = 16
    """Of an adapter, one of `serving.engine.capabilities.VLLM_RANKS`; larger takes memory in each slot."""
    dtype: str = "auto"
    """In which it is computed; `auto`: as the files are."""
    tool_call_parser: str | None = None
    """The name of vLLM's that reads the calls which this model writes; None: no tools."""
    options: tuple[str, ...] = ()
    """More of vLLM's own, such as `--tensor-parallel-size=2`."""


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
    """How to serve the Hugging Face directory `path` under the name `alias`.

    `name`: one more, which people know; `artifact`: an id that each answer's headers tell; `dtype`: in which
    it is computed, `auto` for that of the file (a GPTQ model's kernels know only that); `tool_call_parser`:
    the name of vLLM's that reads the calls which the model writes.
    vLLM takes a port number, not a socket: `listener` says which one and is closed, so between that and
    vLLM's own bind somebody else may take it; `serving.standalone` then tries another.
    Raises `EngineMissing` or `NotServable` before anything is started.
    """
    python = python_with_vllm()
    host, port = listener.getsockname()[:2]
    names = (alias,) if name is None else (name, alias)
    plain = _launch(python, path, names, context_length, threads, dtype)
    tools, more_env = tool_options(python, tool_call_parser)
    listener.close()
    argv, env = (*plain.argv, *tools, "--host", host, "--port", str(port)), {**plain.env, **more_env}
    if artifact is not None:
        argv += ("--middleware", "serving.vllm.middleware.ArtifactHeaderMiddleware")
        env["TUNELINE_ARTIFACT"] = artifact
    return Launch(argv, env, folder=ALONE)


def launch_with_adapters(
    path: Path, alias: str, socket_path: Path, control_key: str, settings: VllmSettings
) -> Launch:
    """The same on a Unix socket behind `serving.vllm.middleware`, with adapters beside it.

    `socket_path`: its directory has vLLM's own sockets and temporary files too. Raises as `launch` does.
    """
    if settings.max_rank not in VLLM_RANKS:
        ranks = ", ".join(map(str, VLLM_RANKS))
        raise NotServable(f"max_rank is {settings.max_rank}, vLLM takes one of {ranks}")
    python, folder = python_with_vllm(), str(socket_path.parent)
    size = (settings.context_length, settings.threads, settings.dtype)
    plain = _launch(python, path, (alias,), *size)
    more = ["--uds", str(socket_path), "--max-num-seqs", str(settings.parallel), "--enable-prefix-caching"]
    more += ["--enable-prompt-tokens-details", "--middleware", "serving.vllm.middleware.AdmissionMiddleware"]
    if slots := settings.adapters:
        more += ["--enable-lora", "--max-loras", str(slots), "--max-cpu-loras", str(slots)]
        more += ["--max-lora-rank", str(settings.max_rank)]
        if is_cpu_build(python):
            more += ["--worker-extension-cls", "serving.vllm.cpu_lora_patch.Mended"]
    tools, more_env = tool_options(python, settings.tool_call_parser)
    env = {
        **plain.env,
        **more_env,
        "TUNELINE_CONTROL_KEY": control_key,
        "TUNELINE_MOST_REQUESTS": str(settings.parallel + settings.queue),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_RPC_BASE_PATH": folder,
        "TMPDIR": folder,
    }
    return Launch((*plain.argv, *more, *tools, *settings.options), env, folder=ALONE)


def _launch(
    python: str, path: Path, names: tuple[str, ...], context_length: int, threads: int | None, dtype: str
) -> Launch:
    try:
        config = json.loads((path / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        message = (
            f"{path} has no config.json that can be read; vLLM serves a merged or GPTQ model's directory"
        )
        raise NotServable(message) from None
    argv = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path.resolve())]
    argv += ["--served-model-name", *names, "--max-model-len", str(context_length)]
    argv += ["--generation-config", "vllm", "--middleware", "serving.vllm.middleware.Dialect"]
    argv += ["--middleware", "serving.vllm.thoughts.Thoughts"]
    argv += ["--disable-uvicorn-access-log", "--disable-fastapi-docs"]  # an address is a client's words
    argv += ["--structured-outputs-config", SCHEMAS]
    if dtype != "auto" and "quantization_config" not in config:
        argv += ["--dtype", dtype]
    env = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    env |= found_in(path)
    env["PYTHONPATH"] = str(ALONE)  # and not what the starter has there
    env["VLLM_HOST_IP"] = "127.0.0.1"  # its processes talk to each other on loopback only
    if is_cpu_build(python):
        # compiling took longer than any patience when the cores were busy, and needs a compiler
        argv += ["--kv-cache-memory-bytes", str(CPU_CACHE_BYTES), "--enforce-eager"]
        env["TORCHDYNAMO_DISABLE"] = "1"
        env["OMP_WAIT_POLICY"] = thread_environment()["OMP_WAIT_POLICY"]
        if threads is None and usable_cores() < len(os.sched_getaffinity(0)):
            threads = usable_cores()  # by itself vLLM takes a thread for each core, whatever the quota
    if threads is not None:
        env["OMP_NUM_THREADS"] = str(threads)
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # bound to cores, two engines would share the first ones
    return Launch(tuple(argv), env)


def is_cpu_build(python: str) -> bool:
    """Whether this environment has the distribution `vllm-cpu`; it has no other mark."""
    library = Path(python).parent.parent / "lib"
    return any(library.glob("python3*/site-packages/vllm_cpu-*.dist-info"))


def python_with_vllm() -> str:
    """The interpreter of vLLM's environment. Raises `EngineMissing`, which says how to make one."""
    python = os.environ.get(VARIABLE) or (str(BESIDE) if BESIDE.exists() else "")
    if not python:
        raise EngineMissing(
            f"engine vllm: there is no {BESIDE}, and {VARIABLE} is not set; it names the Python of an "
            f"environment that has vLLM. To make one: {INSTALL}"
        )
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        missing = subprocess.run([python, "-c", probe], capture_output=True, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineMissing(
            f"engine vllm: {VARIABLE}={python} does not run ({error}); set it anew: {INSTALL}"
        ) from None
    if missing:
        raise EngineMissing(f"engine vllm: {python} has no vllm; install it there: {INSTALL}")
    return python
