"""A PEFT adapter's two files, checked and copied to where only an engine reads them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import IO

from registry.compat.peft import CONFIG, WEIGHTS
from serving.errors import NotServable

CHUNK = 1 << 20


def copy(source: Path, target: Path, max_rank: int) -> str:
    """Copy the adapter at `source` to the new directory `target`; returns the sha256 of what was copied.

    Nothing but the two files goes along, so no pickle can. Raises `NotServable` where one is missing or not a
    regular file, where the configuration cannot be read, or its largest rank is above `max_rank`.
    """
    target.mkdir(parents=True)
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with _opened(source / name) as stream, (target / name).open("wb") as out:
            digest.update(f"{name} {os.fstat(stream.fileno()).st_size}\n".encode())
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                out.write(chunk)
    rank = _rank(target / CONFIG, source / CONFIG)
    if rank > max_rank:
        raise NotServable(
            f"{source}: the adapter's rank is {rank}, this engine was started for at most {max_rank}; start "
            "it with a larger max_rank, or merge the adapter"
        )
    return digest.hexdigest()


def _opened(path: Path) -> IO[bytes]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        pickles = [
            file.name for file in path.parent.glob("adapter_model.*") if file.suffix in (".bin", ".pt")
        ]
        more = f" {pickles[0]} is a pickle, which may run code when it is read." if pickles else ""
        raise NotServable(
            f"{path}: {error.strerror}; expected a regular file of a PEFT adapter.{more}"
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotServable(f"{path} is not a regular file; expected a PEFT adapter's {path.name}")
    return os.fdopen(handle, "rb")


def _rank(config: Path, shown: Path) -> int:
    try:
        values = json.loads(config.read_bytes())
        ranks = [values["r"], *(values.get("rank_pattern") or {}).values()]
        return max(int(rank) for rank in ranks)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotServable(f"{shown} is not a LoRA's configuration: {error!r}") from None
