"""Pin what lies outside the registry: files, packages and hub repositories, to digests or commits.

A stage's memo key must change when what it reads changes, and must not change when a folder moves.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from pydantic import BaseModel

from registry.artifacts import JsonObject
from stages.config.base import BaseConfig
from stages.config.evaluate import SHIPPED, EvaluateConfig, task_folder
from stages.config.judge_metric import FILES, names_file
from stages.config.prepare import PrepareConfig
from stages.errors import InvalidInput, MissingPackage


def pinned(config: BaseModel) -> JsonObject:
    """`config` as JSON values, with every outside source replaced by its name and its digest or commit."""
    tree: JsonObject = config.model_dump(mode="json")
    if isinstance(config, BaseConfig | PrepareConfig):
        tree["source"] = pin(config.source, "dataset" if isinstance(config, PrepareConfig) else "model")
    for mixed in tree.get("mix", ()):
        mixed["source"] = pin(mixed["source"], "dataset")
    if isinstance(config, BaseConfig) and config.chat_template:
        tree["chat_template"] = _pin_path(Path(config.chat_template))
    if isinstance(config, EvaluateConfig):
        for task in tree["tasks"]:
            for part in (task, *task.get("metrics", ())):
                for key in ("path", *FILES):
                    if part.get(key) and (names_file(part[key]) or part[key] == SHIPPED):
                        part[key] = _pin_path(task_folder(part[key]))
    return tree


def pin(source: str, repo_type: str) -> str:
    """`scheme:NAME@DIGEST` of a source; a feed's watermark is in its name already (`feed_input`).

    Raises `InvalidInput` or `MissingPackage`.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "path":
        return f"path:{_pin_path(Path(rest))}"
    if scheme == "package":
        return f"package:{rest}@{_package_digest(rest)}"
    if scheme == "hub":
        return f"hub:{rest.partition('@')[0]}@{commit_of(rest, repo_type)}"
    return source


def _pin_path(path: Path) -> str:
    path = path.expanduser()
    if not path.exists():
        raise InvalidInput(f"{path} does not exist; give the path of an existing file or folder")
    return f"{path.name}@{tree_digest(path)}"


def tree_digest(path: Path) -> str:
    """sha256 of a file, or over the sorted relative names and contents of a folder.

    Hidden files are no part of it: a download's record of its time, a file manager's notes.
    """
    if path.is_file():
        return _file_digest(path)
    whole = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path)
        if not any(part.startswith(".") for part in name.parts):
            whole.update(f"{name.as_posix()}\0{_file_digest(file)}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _package_digest(rest: str) -> str:
    """Version and the installer's record of the files' digests: no byte has to be read again."""
    name, _, pattern = rest.partition("/")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackage(f"the package {name} is not installed; run: pip install {name}") from None
    files = [f for f in distribution.files or () if f.match(pattern) or f.as_posix().startswith(pattern)]
    if not files:
        raise InvalidInput(
            f"the package {name} {distribution.version} has no file {pattern!r}; see: pip show -f {name}"
        )
    whole = hashlib.sha256(distribution.version.encode())
    for file in sorted(files, key=lambda f: f.as_posix()):
        whole.update(f"{file.as_posix()}\0{file.hash.value if file.hash else ''}\n".encode())
    return whole.hexdigest()


def commit_of(repository: str, repo_type: str) -> str:
    """The commit that a branch, tag or commit of a Hugging Face repository stands for, right now."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name, _, revision = repository.partition("@")
    if len(revision) == 40 and all(c in "0123456789abcdef" for c in revision):
        return revision
    try:
        info = HfApi().repo_info(name, revision=revision or None, repo_type=repo_type, timeout=10)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise InvalidInput(
            f"hub:{repository} cannot be resolved to a commit ({type(error).__name__}). Check the name and "
            "the connection, log in for a gated model, or work offline from a downloaded copy: path:DIRECTORY"
        ) from None
    return str(info.sha)


def tree_stamp(path: Path) -> str:
    """sha256 over names, sizes and modification times: tells plain directories apart unread."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    stamp = hashlib.sha256(str(path).encode())
    for file in files:
        status = file.stat()
        stamp.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return stamp.hexdigest()
