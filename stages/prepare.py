"""Prepare a dataset: read, check, deduplicate, split by distinct prompt, describe."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.artifacts import Relation
from stages.config.feed import file_in
from stages.config.prepare import PrepareConfig
from stages.contract import Facts, Parents
from stages.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

    from stages.data.collect import RowCounts
    from stages.data.formats import Messages
    from stages.data.record import Records
    from stages.data.row_spool import RowSpool
    from stages.data.source import Source

VERSION = 3
TOOLS = ("datasets", "pyarrow", "transformers")
RELATIONS: dict[str, Relation] = {"base": "tokenized_for"}


def prepare(parents: Parents, config: PrepareConfig, out: Path) -> Facts:
    """Turn a source into checked, distinct chats, split so that no prompt is in two splits.

    Writes `train.parquet`, `validation.parquet`, `test.parquet` (each shuffled by the seed), `rejects.jsonl`
    (file, line, code and reason of every bad row), `statistics.json` and the data card `README.md`.
    Each Parquet row: `messages` (list of {role, content}, the last one the assistant's), `prompt_hash`
    (sha256 of the normalized messages before the last), `tokens` (length of the rendered chat),
    `trainable` (assistant tokens). Uses the tokenizer and chat template of `parents["base"]`.
    Facts of kind `dataset`; metrics (also in `statistics.json`): `rows` (read, accepted, rejected),
    `rejected` by code, `dropped` (duplicates, …), `unused_fields` (field → accepted rows that have it),
    `splits` (rows, distinct prompts, tokens), `tokens` (length quantiles and histogram), `format`, `licence`,
    `source_hashes`. No file holds the place of the source: the result is the same wherever it lies.
    Raises `InvalidInput` (nothing to read or to keep, too many rejects or duplicates, no UTF-8, a base
    without a usable chat template, too few distinct prompts to split) and `MissingPackage`.
    """
    from stages.backends.chat import load_tokenizer, require_trainable_template

    tokenizer = load_tokenizer(parents["base"].path)
    require_trainable_template(tokenizer)
    scratch = out / ".scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        metrics = _prepare(tokenizer, config, out, scratch)
    finally:
        shutil.rmtree(scratch)
        file_in(out).unlink(missing_ok=True)
    return Facts(kind="dataset", metrics=metrics)


def _prepare(tokenizer: Any, config: PrepareConfig, out: Path, scratch: Path) -> dict[str, Any]:
    import numpy as np

    from stages.backends.chat import render
    from stages.data.card import card
    from stages.data.collect import RowCheck, RowCounts, collect
    from stages.data.publish import first_row, write_splits
    from stages.data.row_spool import RowSpool
    from stages.data.source import open_source
    from stages.data.split import assign

    counts = RowCounts()
    source = open_source(
        config.source,
        config.format.startswith("chatterbot"),
        config.hub_config,
        config.hub_split,
        file_in(out),
    )
    format, shape, records = _shaped(source, config, counts)
    check = RowCheck(tokenizer, shape, config.system, config.max_length)
    with (
        (out / "rejects.jsonl").open("w", encoding="utf-8", errors="backslashreplace") as rejects,
        RowSpool(scratch, config.seed, config.near_duplicates) as spool,
    ):
        collect(records, check, spool, rejects, counts, config.max_rows)
    _refuse_unusable(counts, len(spool), config)
    near = spool.near_duplicates()
    counts.dropped.update(exact_duplicates=spool.exact_duplicates, near_duplicates=int(near.sum()))
    _refuse_loss(spool, near, config)
    split_of_row = np.full(len(spool), -1, dtype=np.int8)
    split_of_row[~near] = assign(spool.prompts[~near], config.split.validation, config.split.test)
    splits = write_splits(spool.path, split_of_row, spool.places, out)
    metrics = {
        "format": format,
        "licence": config.licence or source.licence,
        "source_hashes": source.hashes,
        **_figures(counts, spool.lengths[~near], splits, config.max_length),
    }
    (out / "statistics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", "utf-8")
    example = render(tokenizer, first_row(out))
    (out / "README.md").write_text(card(metrics, config.model_dump(exclude_none=True), example), "utf-8")
    return metrics


def first_rows(config: PrepareConfig, count: int = 100) -> tuple[list[Messages], list[str]]:
    """Of the source's first `count` rows the chats, as `prepare` would make them, and why others are none.

    Nothing is tokenized. Raises what opening the source and telling its format raise: `InvalidInput`,
    `MissingPackage`.
    """
    from stages.data.collect import RowCounts
    from stages.data.formats import to_messages
    from stages.data.record import RowError
    from stages.data.source import open_source

    source = open_source(
        config.source, config.format.startswith("chatterbot"), config.hub_config, config.hub_split
    )
    _, shape, records = _shaped(source, config, RowCounts())
    chats: list[Messages] = []
    rejected: list[str] = []
    for record in itertools.islice(records, count):
        try:
            if record.row is None:
                raise RowError("malformed", record.error or "the row cannot be read")
            chats.append(to_messages(shape, record.row, config.system, Counter()))
        except RowError as error:
            rejected.append(f"{record.file} line {record.line}: {error}")
    return chats, rejected


def _shaped(source: Source, config: PrepareConfig, counts: RowCounts) -> tuple[str, str, Records]:
    """The format as people call it, the shape of the rows that come, and the rows."""
    from stages.data.chatterbot import replies, topics
    from stages.data.collect import pick_format

    format, records = config.format, source.records()
    if format == "auto" and source.chatterbot:
        format = "chatterbot-dialogue"
    if format == "chatterbot-topic":
        records = topics(records, config.topics, counts.dropped)
    elif format == "chatterbot-dialogue":
        records = replies(records, counts.dropped)
    else:
        shape, records = pick_format(records, format, config.source)
        return shape, shape, records
    return format, *pick_format(records, "prompt-completion", config.source)


def _refuse_unusable(counts: RowCounts, good: int, config: PrepareConfig) -> None:
    rejected = counts.rejected.total()
    lengths = sorted(counts.too_long)
    if len(lengths) == counts.read:
        raise InvalidInput(
            f"{config.source}: every one of the {counts.read:,} rows is too long: about {lengths[0]:,} to "
            f"{lengths[-1]:,} tokens (median {lengths[len(lengths) // 2]:,}), max_length is "
            f"{config.max_length:,}; raise prepare.max_length (and train.max_length), or shorten the rows"
        )
    if rejected > config.max_rejected * counts.read or not good:
        reasons = ", ".join(f"{code} {count:,}" for code, count in counts.rejected.most_common())
        raise InvalidInput(
            f"{config.source}: {rejected:,} of {counts.read:,} rows ({rejected / counts.read:.1%}) were "
            f"rejected, prepare.max_rejected is {config.max_rejected:.1%}: {reasons}; for example "
            f"{'; '.join(counts.first_rejects)}; correct or remove such rows"
        )


def _refuse_loss(spool: RowSpool, near: np.ndarray, config: PrepareConfig) -> None:
    exact, nearly = spool.exact_duplicates, int(near.sum())
    good = len(spool) + exact
    lost = (exact + nearly) / good
    if lost <= config.max_deduplicated:
        return
    enough = f"prepare.max_deduplicated to {math.ceil(100 * lost) / 100} if that is right"
    keep = "prepare.near_duplicates to null to keep the latter, or " if nearly else ""
    raise InvalidInput(
        f"{config.source}: {exact + nearly:,} of {good:,} good rows ({lost:.1%}) repeat an earlier row "
        f"({exact:,} exact duplicates, {nearly:,} near duplicates), prepare.max_deduplicated is "
        f"{config.max_deduplicated:.1%}; for example {', '.join(spool.duplicate_places(near))}; "
        f"set {keep}{enough}"
    )


def _figures(
    counts: RowCounts, lengths: np.ndarray, splits: dict[str, dict[str, int]], max_length: int
) -> dict[str, object]:
    from stages.data.card import length_figures

    rows = {"read": counts.read, "accepted": len(lengths), "rejected": counts.rejected.total()}
    return {
        "rows": rows,
        "rejected": dict(sorted(counts.rejected.items())),
        "dropped": dict(sorted(counts.dropped.items())),
        "unused_fields": dict(sorted(counts.unused.items())),
        "splits": splits,
        "tokens": length_figures(lengths, max_length),
    }
