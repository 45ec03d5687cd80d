"""The judge while it is needed: an endpoint that is there, or llama.cpp with a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from stages.config.deploy import DeployConfig
from stages.config.judge_metric import JudgeMetric, names_file
from stages.contract import toolchain
from stages.errors import InvalidInput, MissingPackage, StageError
from stages.scoring.judge.endpoint import Endpoint

LOADING = 900.0
"""Seconds that a judge's file may take to load."""
ENGINE = "llama-cpp-python"


def require_there(metric: JudgeMetric) -> None:
    """Raise `InvalidInput` where there is no such file, or the key is not in the environment.

    A run looks for an artifact when it has its registry.
    """
    if metric.gguf is not None and names_file(metric.gguf):
        _file(metric)
    _key(metric)


def identity(metric: JudgeMetric) -> dict[str, str]:
    """What of the judge decides its replies: address and model, or the file's digest and the engine.

    Raises `InvalidInput` where there is no such file, or the key is not in the environment.
    """
    if metric.url is not None:
        _key(metric)
        return {"url": metric.url.rstrip("/"), "model": str(metric.model)}
    with _file(metric).open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"file": digest, "engine": f"{ENGINE} {toolchain([ENGINE])[ENGINE]}"}


@contextlib.contextmanager
def running(metric: JudgeMetric, judge: Mapping[str, str]) -> Iterator[Endpoint]:
    """Where the `judge` (its `identity`) answers; an engine that is started for a file ends with the block.

    Raises `InvalidInput`, `MissingPackage` or `StageError` where it cannot be started.
    """
    if metric.url is not None:
        yield Endpoint(metric.url.rstrip("/"), str(metric.model), metric.seconds, _key(metric), metric.remote)
        return
    from serving import errors, standalone

    config = DeployConfig(context_length=metric.context_length, ready_timeout=LOADING)

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        log = Path(folder) / "judge.log"
        try:
            engine = stack.enter_context(standalone.while_used(judge["file"], _file(metric), config, log))
        except errors.EngineMissing as error:
            raise MissingPackage(str(error)) from error
        except (errors.NotServable, errors.PortTaken) as error:
            raise InvalidInput(f"metric {metric.name}: {error}") from error
        except errors.ServingError as error:
            raise StageError(f"metric {metric.name}: {error}") from error
        yield Endpoint(f"{engine.url}/v1", engine.alias, metric.seconds)


def _key(metric: JudgeMetric) -> str | None:
    if metric.key is None:
        return None
    key = os.environ.get(metric.key, "").strip()
    if not key:
        raise InvalidInput(
            f"metric {metric.name}: the environment variable {metric.key} is not set; put the endpoint's key "
            "there, or take `key` out of the metric"
        )
    return key


def _file(metric: JudgeMetric) -> Path:
    path = Path(str(metric.gguf)).expanduser()
    file = path / "model.gguf" if path.is_dir() else path
    if not _begins_as_gguf(file):
        raise InvalidInput(
            f"metric {metric.name}: {metric.gguf} is not a GGUF file, nor a folder with model.gguf"
        )
    return file


def _begins_as_gguf(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(4) == b"GGUF"
    except OSError:
        return False
