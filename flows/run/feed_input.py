"""A feed as the source of a recipe: read up to a watermark, which a run sets once, at its beginning.

The watermark is part of the source's name (`feed:NAME@NUMBER`, with `-FORGOTTEN` where rows up to it were
forgotten), so of the memo key and of the dataset's manifest. `prepare` knows no registry: the rows come to it
as a file in its own folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.recipe import Recipe
from registry import Registry
from registry.errors import InvalidFeed
from registry.feeds.feeds import Watermark
from stages.config.feed import FEED, feed_of, file_in
from stages.config.prepare import PrepareConfig
from stages.contract import StageConfig


def at_watermark(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe with its feed, if it reads one, at the watermark that the recipe names, or at the last row.

    New files of the directory that the feed watches, if any, are added first. Raises NotFound for a feed that
    is not there, InvalidFeed for one without rows or a watermark beyond them, and as `read_directory` does.
    """
    named = feed_of(recipe.prepare.source)
    if named is not None and named[1] is None:
        from flows.run.feed_files import read_directory  # which loads what reads rows

        read_directory(registry, named[0])
    if named is not None:
        registry.forgettings.expire()
    if (mark := watermark(recipe.prepare, registry)) is None:
        return recipe
    prepare = recipe.prepare.model_copy(update={"source": f"{FEED}:{mark}"})
    return recipe.model_copy(update={"prepare": prepare})


def watermark(config: PrepareConfig, registry: Registry) -> Watermark | None:
    """How far the feed that a recipe's `prepare` names would be read now; None for any other source.

    Raises as `at_watermark` does.
    """
    named = feed_of(config.source)
    return None if named is None else registry.feeds.watermark(*named)


def require_unchanged(registry: Registry, config: StageConfig) -> None:
    """Raise InvalidFeed where rows that the source would read were forgotten since its watermark was set.

    What was made before under that name holds them, and is not to be found again.
    """
    if not isinstance(config, PrepareConfig):
        return
    mark = watermark(config, registry)
    if mark is not None and config.source != f"{FEED}:{mark}":
        raise InvalidFeed(f"rows of feed {mark.feed} were forgotten since this run began; run it again")


@contextmanager
def rows_file(registry: Registry, config: StageConfig) -> Iterator[Path | None]:
    """Within the block, a file with the rows of `config`'s feed; None where it reads none.

    Raises as `watermark` does.
    """
    with tempfile.TemporaryDirectory() as name, handed_over(registry, config, Path(name)):
        path = file_in(Path(name))
        yield path if path.exists() else None


@contextmanager
def handed_over(registry: Registry, config: StageConfig, folder: Path) -> Iterator[None]:
    """Within the block the rows of `config`'s feed, if it has one, lie in `folder`, where `prepare` looks.

    A line for each number: empty where there is nothing to train on, so that lines are the rows' numbers.
    """
    mark = watermark(config, registry) if isinstance(config, PrepareConfig) else None
    if mark is None:
        yield
        return
    path = file_in(folder)
    try:
        with path.open("w", encoding="utf-8") as file:
            for _, content in registry.feeds.contents(mark):
                file.write(f"{content or ''}\n")
        yield
    finally:
        path.unlink(missing_ok=True)
