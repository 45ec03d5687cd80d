"""Checkpoints of a training: whole ones of the same inputs, whenever the process or the system went down."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from registry.store.files import sync_file

log = logging.getLogger("tuneline.train")

COMPLETE = "COMPLETE"
"""Written into a checkpoint after everything else; a checkpoint without it does not exist for us."""
INPUTS = "inputs.json"
"""What all checkpoints beside it were made from."""


def last_checkpoint(root: Path, fingerprint: str) -> Path | None:
    """The newest complete checkpoint of the same inputs under `root`; anything else there is removed."""
    inputs = root / INPUTS
    same = _recorded(inputs) == fingerprint
    if root.exists() and not same:
        log.info("checkpoints of other inputs are in the way; starting from step 0")
        discard(root)
    if not same:
        root.mkdir()
        part = root / f"{INPUTS}.part"
        part.write_text(json.dumps({"fingerprint": fingerprint}))
        part.rename(inputs)
    by_step = {int(folder.name.rpartition("-")[2]): folder for folder in root.glob("checkpoint-*")}
    complete = [step for step, folder in by_step.items() if (folder / COMPLETE).exists()]
    newest = max(complete, default=None)
    for step, folder in by_step.items():
        if step != newest:
            shutil.rmtree(folder)
    return None if newest is None else by_step[newest]


def keep_only(root: Path, newest: Path) -> None:
    """`newest` is written: mark it as complete, once the disk has it, and delete the others under `root`."""
    for file in newest.iterdir():
        sync_file(file)
    (newest / COMPLETE).touch()
    for older in root.glob("checkpoint-*"):
        if older != newest:
            shutil.rmtree(older)


def discard(root: Path) -> None:
    """Delete the checkpoints under `root`; were this killed, what is left would not be used."""
    (root / INPUTS).unlink(missing_ok=True)
    shutil.rmtree(root)


def _recorded(inputs: Path) -> str | None:
    """What the checkpoints beside it were made from; None where that is not known."""
    try:
        fingerprint: str | None = json.loads(inputs.read_text()).get("fingerprint")
    except (FileNotFoundError, ValueError):
        return None
    return fingerprint
