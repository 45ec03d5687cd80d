"""Install llama.cpp's converter of the runtime's commit: python -m stages.formats.converter_source

The wheel of llama-cpp-python holds the runtime only; its source distribution also holds the converter. A
converter of another commit writes files that the runtime misreads, so the version must be the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.errors import InsufficientResources, MissingPackage, StageError

DISTRIBUTION = "llama-cpp-python"
COMMAND = "python -m stages.formats.converter_source"
SCRIPTS = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py")
WANTED = (*SCRIPTS, "conversion/", "gguf-py/gguf/", "models/templates/", "LICENSE")
_MARKER = "source.json"
_VENDOR = "vendor/llama.cpp/"
_HEAD = ".git/modules/vendor/llama.cpp/HEAD"


@dataclass(frozen=True)
class ConverterSource:
    """Which llama.cpp the converter is: version of the distribution, commit, sha256 of its sdist."""

    version: str
    commit: str
    sdist_sha256: str


def home() -> Path:
    """Where the converter lives: inside this Python environment, beside the runtime that it belongs to."""
    return Path(sys.prefix) / "share" / "tuneline" / "llama.cpp"


def find() -> ConverterSource:
    """The installed converter. Raises `MissingPackage` when it is absent or not the runtime's version."""
    runtime = _runtime_version()
    installed = _read_marker(home())
    if installed is None:
        raise MissingPackage(
            f"llama.cpp's converter is not installed (expected in {home()}); install it with: {COMMAND}"
        )
    if installed.version != runtime:
        raise MissingPackage(
            f"llama.cpp's converter is of {DISTRIBUTION} {installed.version}, but the runtime is {runtime}; "
            f"they must be the same: {COMMAND}"
        )
    return installed


def install() -> ConverterSource:
    """Fetch the source distribution of the installed runtime's version through pip and unpack the converter.

    Appears all at once; does nothing when the right one is there. Raises `StageError` when pip fails.
    """
    version, target = _runtime_version(), home()
    installed = _read_marker(target)
    if installed is not None and installed.version == version:
        return installed
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".llama.cpp-") as scratch:
        archive = _download(version, Path(scratch))
        draft = Path(scratch) / "draft"
        source = ConverterSource(version, unpack(archive, draft), _sha256(archive))
        (draft / _MARKER).write_text(json.dumps(asdict(source), indent=2, sort_keys=True) + "\n")
        if target.exists():
            target.rename(Path(scratch) / "old")
        draft.rename(target)
    return source


def unpack(archive: Path, out: Path) -> str:
    """Extract the `WANTED` files of the sdist `archive` to `out`; returns llama.cpp's commit or "unknown".

    Raises `StageError` when the archive does not hold them.
    """
    commit = "unknown"
    with tarfile.open(archive, "r:gz") as tar:
        for inside, member in _files(tar):
            stream = tar.extractfile(member)
            if stream is None:
                continue
            if inside == _HEAD:
                commit = stream.read(200).decode("ascii", "replace").strip()
            elif inside.startswith(_VENDOR) and inside.removeprefix(_VENDOR).startswith(WANTED):
                target = out / inside.removeprefix(_VENDOR)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as write:
                    shutil.copyfileobj(stream, write)
    missing = [name for name in WANTED if not (out / name).exists()]
    if missing:
        raise StageError(
            f"{archive.name} holds no {', '.join(missing)} under {_VENDOR}; this version packs llama.cpp "
            "differently: pin the version that Tuneline names in pyproject.toml"
        )
    return commit


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Regular files with their path below the archive's top folder; names that climb out are left out."""
    for member in tar:
        inside = member.name.partition("/")[2]
        if member.isfile() and ".." not in Path(inside).parts and not inside.startswith("/"):
            yield inside, member


def _runtime_version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackage(
            f"{DISTRIBUTION} is not installed; install it with: pip install {DISTRIBUTION}"
        ) from None


def _read_marker(folder: Path) -> ConverterSource | None:
    try:
        return ConverterSource(**json.loads((folder / _MARKER).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _download(version: str, folder: Path) -> Path:
    if shutil.disk_usage(folder).free < 500_000_000:
        raise InsufficientResources(
            f"fetching {DISTRIBUTION} {version} needs 0.5 GB on the disk of {folder.parent}; make room"
        )
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    sources = ["--no-deps", "--no-binary", DISTRIBUTION, f"{DISTRIBUTION}=={version}"]
    command = [*download, *sources, "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        reason = (done.stderr.strip() or done.stdout.strip() or "no archive").splitlines()[-1]
        raise StageError(
            f"pip could not download the source of {DISTRIBUTION} {version}: {reason}; check the network "
            f"and pip's index, then: {COMMAND}"
        )
    return archives[0]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> int:
    try:
        source = install()
    except StageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(
        f"llama.cpp's converter {source.version} (commit {source.commit[:12]}) in {home()}", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
