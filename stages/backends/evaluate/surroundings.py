"""What lm-eval and datasets do by themselves, held back while a task runs: downloads, caches, progress."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
from lm_eval.api import task as lm_eval_task

from stages.errors import InvalidInput


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Data files are named relative to the YAML file; what datasets makes of them is thrown away."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a directory; expected one that holds the task's YAML file")
    kept = datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory() as cache, contextlib.chdir(folder):
        datasets.config.HF_DATASETS_CACHE = cache
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = kept


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Nothing is downloaded."""
    kept = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
    os.environ.update(dict.fromkeys(kept, "1"))
    was_offline, datasets.config.HF_DATASETS_OFFLINE = datasets.config.HF_DATASETS_OFFLINE, True
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_OFFLINE = was_offline
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval logs its bookkeeping and draws progress bars; ours is in `TokenLM`."""
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, lm_eval_task.tqdm
    logger.setLevel(logging.ERROR)
    lm_eval_task.tqdm = functools.partial(bars, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval_task.tqdm = bars
