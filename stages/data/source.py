"""Where rows come from: files, data shipped in an installed package, or a Hugging Face dataset, a feed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from types import MappingProxyType

from stages.data import tables
from stages.data.fields import renamed, require_fields
from stages.data.files import (
    DOCUMENTS,
    READERS,
    YAML,
    data_suffix,
    is_document,
    read_document,
    read_file,
)
from stages.data.source_row import SourceRows, shown
from stages.errors import InvalidInput, MissingPackage


@dataclass(frozen=True)
class Source:
    """Rows that can be read, and what is known of where they come from."""

    rows: Callable[[], SourceRows]
    hashes: dict[str, str] = field(default_factory=dict)
    """file → sha256, or dataset → commit"""
    licence: str | None = None
    chatterbot: bool = False


def open_source(
    source: str,
    format: str,
    hub_config: str | None,
    hub_split: str,
    feed: Path | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
    slices: Collection[str] = (),
) -> Source:
    """The source that a recipe names; `feed`: a feed's rows.

    `format`, as `prepare.format` has it: chatterbot's ask for the corpus's YAML files, `text` for text files
    too, where the source has no files of rows.

    `columns`: the data's name → the field that it is read as; `slices`: columns that are read beside these.

    Raises `InvalidInput` when nothing readable is there, `MissingPackage` with the command to install it.
    """
    if not columns:
        return _opened(source, format, hub_config, hub_split, feed, slices)
    require_fields(columns)
    opened = _opened(source, format, hub_config, hub_split, feed, {*columns, *slices})
    return replace(opened, rows=lambda: renamed(opened.rows(), columns, source))


def _opened(
    source: str,
    format: str,
    hub_config: str | None,
    hub_split: str,
    feed: Path | None,
    columns: Collection[str] = (),
) -> Source:
    scheme, _, rest = source.partition(":")
    if scheme == "path":
        return _from_files(_under(Path(rest).expanduser()), source, format, columns=columns)
    if scheme == "package":
        name, _, pattern = rest.partition("/")
        files, licence = _in_package(name, pattern)
        return _from_files(files, source, format, licence, columns)
    if scheme == "feed":
        return _from_feed(source, feed)
    return _from_hub(rest, hub_config, hub_split, columns)


def _from_files(
    files: dict[str, Path],
    source: str,
    format: str,
    licence: str | None = None,
    columns: Collection[str] = (),
) -> Source:
    corpora = {name: path for name, path in sorted(files.items()) if data_suffix(name) in YAML}
    rowed = {name: path for name, path in sorted(files.items()) if data_suffix(name) and name not in corpora}
    texts = {name: path for name, path in sorted(files.items()) if is_document(name)}
    # YAML and texts beside rows are usually their description; YAML by itself can only be a corpus.
    if format == "text":
        chosen, expected = rowed or texts, tuple(s for s in READERS if s not in YAML) + DOCUMENTS
    elif format.startswith("chatterbot"):
        chosen, expected = corpora, YAML
    else:
        chosen, expected = rowed or corpora, tuple(READERS)
    if not chosen:
        documents = f"; {next(iter(texts))} is a document: prepare.format: text reads it" if texts else ""
        raise InvalidInput(
            f"{source}: no data file found; expected {' '.join(expected)} (also .gz), "
            f"found {', '.join(sorted(files)[:8]) or 'nothing'}{documents}"
        )

    for name in chosen:
        if name != name.encode(errors="replace").decode():  # it could not be written into any list
            raise InvalidInput(f"{source}: the file name {shown(name)} is not UTF-8; rename the file")

    def rows() -> SourceRows:
        for name, path in chosen.items():
            yield from read_document(path, name) if chosen is texts else read_file(path, name, columns)

    hashes = {name: _sha256(path) for name, path in chosen.items()}
    return Source(rows, hashes, licence, chatterbot=chosen is corpora)


def _from_feed(source: str, rows: Path | None) -> Source:
    if rows is None or not rows.is_file():
        raise InvalidInput(f"{source}: a feed is in the registry; `tuneline run RECIPE` reads it")
    return Source(lambda: read_file(rows, source), {source: _sha256(rows)})


def _under(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise InvalidInput(
            f"path:{path}: no such file or directory; a relative path counts from {Path.cwd()}"
        )
    files = ((file.relative_to(path), file) for file in path.rglob("*") if file.is_file())
    return {name.as_posix(): file for name, file in files if not any(p.startswith(".") for p in name.parts)}


def _in_package(name: str, pattern: str) -> tuple[dict[str, Path], str | None]:
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise MissingPackage(
            f"package:{name}/{pattern}: the package {name!r} is not installed: pip install {name}"
        ) from error
    files = list(distribution.files or [])
    matching = {str(file): Path(str(file.locate())) for file in files if pattern and file.match(pattern)}
    if not matching:
        data = sorted(str(file) for file in files if data_suffix(str(file)))
        raise InvalidInput(
            f"package:{name}/{pattern}: no file of {name} {distribution.version} matches {pattern!r}; "
            f"its data files: {', '.join(data[:8]) or 'none'}{' …' if len(data) > 8 else ''}"
        )
    return matching, _licence(distribution)


def _licence(distribution: importlib.metadata.Distribution) -> str | None:
    metadata = distribution.metadata.json
    stated = metadata.get("license_expression") or metadata.get("license")
    if stated:
        return str(stated).strip().splitlines()[0]
    classifiers = metadata.get("classifier", [])
    return next((c.rsplit(" :: ", 1)[1] for c in classifiers if c.startswith("License :: ")), None)


def _from_hub(reference: str, config: str | None, split: str, more: Collection[str]) -> Source:
    import datasets
    import huggingface_hub

    name, _, revision = reference.partition("@")
    if Path(name).exists():  # `datasets` would silently take it for the dataset
        raise InvalidInput(
            f"hub:{reference}: {name} is a local directory; write path:{name}, or run in another folder"
        )
    try:
        commit = revision
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            commit = str(
                huggingface_hub.HfApi().dataset_info(name, revision=revision or None, timeout=10).sha
            )
        datasets.disable_progress_bars()
        table = datasets.load_dataset(name, config, split=split, revision=commit)
    except Exception as error:  # the client raises its own, httpx's and OSError; each means: not to be had
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidInput(
            f"hub:{reference}: the dataset (split {split}) cannot be loaded ({reason}); check the name, the "
            "split and the connection, or download its files elsewhere and use path:DIRECTORY"
        ) from error

    wanted, unread = tables.wanted_columns(table.column_names, name, more)
    columns = table.select_columns(wanted).with_format("arrow")

    def rows() -> SourceRows:
        return tables.rows(columns.iter(tables.ROWS), name, unread)

    return Source(rows, {f"{name} ({split})": commit}, table.info.license or None)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def placeless(source: str) -> str:
    """The source without its folder: what is made of it may not change with its place."""
    scheme, _, rest = source.partition(":")
    return f"path:{PurePath(rest).name}" if scheme == "path" else source


def within(rows: SourceRows, name: str) -> SourceRows:
    """The rows with `name` before their file, since two sources may have files of one name."""
    for row in rows:
        yield replace(row, file=f"{name}: {row.file}")


def drawn(rows: SourceRows, share: float, seed: int) -> SourceRows:
    """The share of the rows that `seed` draws: of each row by its place, whatever else there is."""
    for row in rows:
        number = f":{row.number}" if row.number else ""
        place = f"{seed}:{row.file}:{row.line}{number}".encode(errors="surrogateescape")
        uniform = int.from_bytes(hashlib.blake2b(place, digest_size=7).digest()) / 2**56
        if uniform < share:
            yield row
