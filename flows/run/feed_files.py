"""Files of rows into a feed: all rows of all files, or none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flows.errors import Usage
from registry import Registry
from registry.errors import InvalidFeed
from registry.feeds.feeds import Added
from registry.feeds.rows import NewRow, chat
from stages.data.chats.kept import refuse_several, with_kept
from stages.data.collect import note, pick_format
from stages.data.files import READERS, YAML, data_suffix, read_file
from stages.data.formats import to_messages
from stages.data.source_row import RowError

SETTLED = 10.0
"""Seconds for which a file of a watched directory has to have been left alone: it may still be written."""
_TOLD = 3


class AddedFiles(Added):
    """What adding files came to. `unused_fields`: field that nothing of a feed is made of → rows with it."""

    unused_fields: dict[str, int]


def add_files(registry: Registry, name: str, path: Path, who: str, tenant: str | None = None) -> AddedFiles:
    """Add the rows of a file, or of all data files of a directory; rows that came before do not come again.

    `tenant`: whose they are, if anybody's; it has to be one of the registry's, or NotFound is raised.

    Raises Usage where there is no such file, InvalidInput or InvalidFeed naming the file and the line of what
    cannot be used: nothing is added then.
    """
    if tenant is not None:
        registry.tenants.get(tenant)
    if path.is_dir():
        files = _of_directory(path)
    elif path.is_file():
        files = [path]
    else:
        raise Usage(f"{path} does not exist; give a file of rows ({' '.join(_suffixes())}), or a directory")
    if not files:
        raise Usage(f"{path} holds no file of rows; expected {' '.join(_suffixes())} (also .gz)")
    return _add(registry, name, files, who, tenant)


def read_directory(registry: Registry, name: str) -> AddedFiles | None:
    """Add what is new in the directory that the feed watches, if it watches one.

    Files that somebody wrote to a moment ago wait for the next time. Raises as `add_files` does.
    """
    feed = registry.feeds.get(name)
    if feed.directory is None:
        return None
    directory = Path(feed.directory)
    if not directory.is_dir():
        found = "is a file and not a directory" if directory.exists() else "does not exist; make it"
        raise Usage(
            f"feed {name} watches {directory}, which {found}: name a directory with `tuneline feed "
            f"watch {name} DIRECTORY`, or end it with `tuneline feed watch {name} --off`"
        )
    now = time.time()
    files = [file for file in _of_directory(directory) if now - _written(file) >= SETTLED]
    return _add(registry, name, files, feed.who)


def _add(
    registry: Registry, name: str, files: Sequence[Path], who: str, tenant: str | None = None
) -> AddedFiles:
    unused: Counter[str] = Counter()
    rows = [replace(row, tenant=tenant) for row in _rows(files, unused)]
    added = registry.feeds.add(name, rows, who)
    return AddedFiles(**added.model_dump(), unused_fields=dict(sorted(unused.items())))


def _written(file: Path) -> float:
    """When; as if it were in the future where it was taken away a moment ago."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _of_directory(path: Path) -> list[Path]:
    files = (file for file in path.rglob("*") if file.is_file() and data_suffix(file.name) in _suffixes())
    return sorted(f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts))


def _suffixes() -> list[str]:
    return [suffix for suffix in READERS if suffix not in YAML]


def _rows(files: Sequence[Path], all_unused: Counter[str]) -> list[NewRow]:
    """All rows of the files, whose unused fields are counted. Raises InvalidFeed naming what is wrong."""
    rows: list[NewRow] = []
    wrong: list[str] = []
    for path in files:
        if data_suffix(path.name) not in _suffixes():
            raise Usage(f"{path} is not a file of rows; expected {' '.join(_suffixes())} (also .gz)")
        records = with_kept(read_file(path, path.name), (), str(path))
        shape, records = pick_format(records, "auto", str(path))
        for source_row in records:
            place, unused = source_row.place, Counter(source_row.unread)
            try:
                if source_row.row is None:
                    raise RowError("malformed", source_row.error or "the row cannot be read")
                refuse_several(source_row.kept)
                rows.append(chat(to_messages(shape, source_row.row, None, unused), place, "file", place))
                note(unused, all_unused)
            except RowError as error:
                wrong.append(f"{place}: {error}")
            except InvalidFeed as error:
                wrong.append(str(error))
    if wrong:
        more = f"; and {len(wrong) - _TOLD:,} more" if len(wrong) > _TOLD else ""
        raise InvalidFeed(
            f"{len(wrong):,} of {len(wrong) + len(rows):,} rows cannot be used, and nothing was added: "
            f"{'; '.join(wrong[:_TOLD])}{more}; correct or remove them, then add the file again"
        )
    return rows
