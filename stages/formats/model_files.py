"""Model directories as files: which belong to a model, copying them, digests."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from pathlib import Path

from registry.artifacts import digest as json_digest
from stages.errors import InsufficientResources, InvalidInput

_VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
"""They decide which ids a text gets."""
TOKENIZER_FILES = (*_VOCABULARY, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
INDEX = "model.safetensors.index.json"
SMALL_FILES = ("config.json", "generation_config.json", INDEX, *TOKENIZER_FILES)
"""What a base needs beside its weights; pickled weights and Python code are never among it."""

FICLONE = 0x40049409
"""Linux ioctl: share the blocks of another file (btrfs, xfs); see ioctl_ficlone(2)."""


def copy_model_files(folder: Path, out: Path) -> None:
    """Copy a model's files from `folder` to `out`, sharing blocks where the file system can.

    Raises `InvalidInput` when it is no model directory, `InsufficientResources` when the disk has no room.
    """
    if not folder.is_dir():
        raise InvalidInput(f"path:{folder}: no such directory; expected a Hugging Face model directory")
    weights = weight_files(folder)
    chosen = [*(folder / name for name in SMALL_FILES if (folder / name).is_file()), *weights]
    need_room(out, sum(file.stat().st_size for file in chosen), f"copying {folder.name}")
    for file in chosen:
        copy_file(file.resolve(), out / file.name)


def need_room(out: Path, nbytes: int, purpose: str) -> None:
    """Raise `InsufficientResources` when the disk under `out` has less than `nbytes` free."""
    free = shutil.disk_usage(out).free
    if nbytes > free:
        raise InsufficientResources(
            f"{purpose} needs {nbytes / 1e9:.1f} GB on the disk of {out}, which has {free / 1e9:.1f} GB "
            "free; make room or set TUNELINE_HOME to a larger disk"
        )


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, sharing its blocks where the file system can."""
    with source.open("rb") as read, target.open("wb") as write:
        with contextlib.suppress(OSError):
            fcntl.ioctl(write.fileno(), FICLONE, read.fileno())
            return
        shutil.copyfileobj(read, write, 1 << 24)


def sha256_of_file(file: Path) -> str:
    """sha256 (hex) of a file, read in blocks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """sha256 (hex) of a chat template in UTF-8. Raises `InvalidInput` where it holds half a character."""
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):x}"
        raise InvalidInput(f"the chat template holds half a character ({half}); fetch it again") from None


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the files that decide which ids a text gets; the chat template has its own digest."""
    digests = {name: sha256_of_file(folder / name) for name in _VOCABULARY if (folder / name).is_file()}
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    return json_digest([digests, settings])


def weights_digest(folder: Path) -> str:
    """sha256 over the sorted (file name, sha256) of the safetensors files in `folder`."""
    return json_digest([[file.name, sha256_of_file(file)] for file in weight_files(folder)])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, by name: those that its index names, or else the only one.

    Other files beside them (an adapter, a second copy in another layout) are no part of the model.
    Raises `InvalidInput` when there are none or one is missing.
    """
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    elif (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    else:
        names = sorted(file.name for file in folder.glob("*.safetensors"))
    missing = [name for name in names if "/" in name or not (folder / name).is_file()]
    if missing:
        raise InvalidInput(f"{folder.name}: {INDEX} names files that are not there: {', '.join(missing)}")
    if len(names) > 1 and not index.is_file():
        raise InvalidInput(
            f"{folder.name}: {len(names)} safetensors files and no {INDEX} to say which make up the model; "
            "save it again with save_pretrained()"
        )
    if not names:
        raise InvalidInput(_no_weights(folder))
    return [folder / name for name in names]


def _no_weights(folder: Path) -> str:
    pickled = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in folder.glob(pattern))
    found = (
        f"only pickled weights ({', '.join(pickled)}), which can run code when opened" if pickled else "none"
    )
    return (
        f"{folder.name}: expected weights in safetensors files, found {found}; "
        "convert them with save_pretrained() in a place you trust"
    )
