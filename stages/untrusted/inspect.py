"""What an untrusted directory or file is, found out without trusting it.

`inspect` runs its readers in a sandbox (`stages.untrusted.sandbox`); nothing here loads torch, and
nothing here decides which base the files belong to.
"""

from __future__ import annotations

import stat
from pathlib import Path

from registry.compat import peft
from stages import outline
from stages.errors import InvalidInput
from stages.untrusted import gguf, tokenizer
from stages.untrusted.description import Description
from stages.untrusted.huggingface import look_at_adapter, look_at_model, own_record, shown
from stages.untrusted.sandbox import in_sandbox, limits_for

MOST_FILES = 1000


def inspect(path: Path, thorough: bool = False) -> Description:
    """`form`, `files` (names that belong to it), `left_out`, `outline` and what else the files say.

    `thorough` reads every number of the weights; otherwise headers, configurations and tokenizers only.
    Raises `InvalidInput` for what cannot be trusted, within seconds, whatever the files hold.
    """
    size = _size(path)
    limits = limits_for(size if thorough else 0, mapped_bytes=size)
    argument = {"path": str(path), "thorough": thorough}
    description: Description = in_sandbox("stages.untrusted.inspect:look", argument, path.name, limits)
    return description


def compare_vocabulary(path: Path, base: Path) -> dict[str, int] | None:
    """How the tokens in `path` (a directory or a GGUF file) agree with those of the base's directory, by id.

    None where one of them has no vocabulary of a known form. In the sandbox, like `inspect`.
    """
    limits, argument = limits_for(mapped_bytes=_size(path)), {"path": str(path), "base": str(base)}
    counts: dict[str, int] | None = in_sandbox(
        "stages.untrusted.inspect:compare", argument, path.name, limits
    )
    return counts


def look(path: str, thorough: bool) -> Description:
    """See `inspect`; runs in the child."""
    place = Path(path)
    if place.is_file():
        return _look_at_gguf(place, thorough)
    names = _names(place)
    ggufs = [name for name in names if name.endswith(".gguf")]
    if peft.CONFIG in names:
        return look_at_adapter(place, names, thorough)
    if "config.json" in names:
        return look_at_model(place, names, thorough)
    if len(ggufs) == 1:
        return _look_at_gguf(place / ggufs[0], thorough)
    found = f"{len(ggufs)} GGUF files: name one of them" if ggufs else shown(names)
    raise InvalidInput(
        f"{place.name} is not a model of a known form; expected {peft.CONFIG} (PEFT), config.json (a "
        f"merged or GPTQ model) or one .gguf file, found {found}"
    )


def compare(path: str, base: str) -> dict[str, int] | None:
    """See `compare_vocabulary`; runs in the child."""
    place = Path(path)
    expected = tokenizer.vocabulary(Path(base))
    if expected is None:
        return None
    if place.is_file():
        return tokenizer.compare(expected, gguf.read(place).texts[gguf.TOKENS])
    tokens = tokenizer.vocabulary(place)
    return None if tokens is None else tokenizer.compare(expected, tokens)


def _size(path: Path) -> int:
    """Bytes of a file, or of the files at the top of a directory; refuses what is neither."""
    if not path.exists():
        raise InvalidInput(f"{path} does not exist; give a directory or a .gguf file")
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file())
    if not path.is_file():
        raise InvalidInput(f"{path} is neither a directory nor a regular file")
    return path.stat().st_size


def _names(folder: Path) -> list[str]:
    """Regular files at the top of a directory. Links may lead to siblings, or into a hub cache's blobs."""
    names = []
    cache = folder.resolve().parent.parent / "blobs" if folder.resolve().parent.name == "snapshots" else None
    for entry in sorted(folder.iterdir()):
        target = entry.resolve()
        if entry.is_symlink() and target.parent not in (folder.resolve(), cache):
            raise InvalidInput(
                f"{entry.name[:80]!r} in {folder.name} is a link to somewhere else; what it leads to is no "
                "part of the model: put a copy in its place"
            )
        mode = target.stat().st_mode if target.exists() else 0
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise InvalidInput(
                f"{entry.name[:80]!r} in {folder.name} is not a regular file (a FIFO, a socket, a device or "
                "a broken link); remove it"
            )
        if stat.S_ISREG(mode):
            names.append(entry.name)
        if len(names) > MOST_FILES:
            raise InvalidInput(f"{folder.name} holds more than {MOST_FILES} files; no model does")
    return names


def _own_notes(folder: Path) -> list[str]:
    """Only a plain file counts; what else lies beside a GGUF file is none of our business."""
    notes = [folder / name for name in ("tuneline-facts.json", "tuneline.json")]
    return [note.name for note in notes if note.is_file() and not note.is_symlink()]


def _look_at_gguf(file: Path, thorough: bool) -> Description:
    lora = gguf.read_adapter(file)
    if lora is not None:
        unseen = gguf.require_finite(file, lora) if thorough else []
        return {"form": "gguf-adapter", "files": [file.name], "left_out": [], "not_scanned": unseen}
    description = gguf.read(file)
    effective, named = gguf.effective(description)
    unseen = gguf.require_finite(file, description) if thorough else []
    template = description.values.get("tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer.try_template(template)
    architecture = str(description.values["general.architecture"])
    embedding = next((t.shape for t in description.tensors if t.name == "token_embd.weight"), None)
    keep = ("general.name", "general.quantized_by", "general.file_type", "tokenizer.ggml.pre")
    return {
        "form": "gguf",
        "files": [file.name],
        "left_out": [],
        "outline": outline.outline_of_gguf(description.values),
        "effective": effective,
        "names_its_type": named,
        "not_scanned": unseen,
        "tokens": len(description.texts[gguf.TOKENS]),
        "embedding": None if embedding is None else list(embedding),
        "blocks": description.values.get(f"{architecture}.block_count"),
        "metadata": {key: description.values[key] for key in keep if key in description.values},
        "record": own_record(file.parent, _own_notes(file.parent)),
    }
