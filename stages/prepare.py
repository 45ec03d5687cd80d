"""Prepare a dataset: read, check, deduplicate, split by distinct prompt, describe."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from registry.artifacts import Relation
from stages.config.feed import feed_of, file_in
from stages.config.prepare import PrepareConfig
from stages.contract import Facts, Parents
from stages.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

    from stages.data.collect import RowCounts
    from stages.data.formats import Messages
    from stages.data.held_out import HeldOut
    from stages.data.row_spool import RowSpool
    from stages.data.source import Source
    from stages.data.source_row import SourceRows

VERSION = 3
TOOLS = ("datasets", "pyarrow", "transformers")
RELATIONS: dict[str, Relation] = {"base": "tokenized_for", "previous": "grown_from"}


def prepare(parents: Parents, config: PrepareConfig, out: Path) -> Facts:
    """Turn a source into checked, distinct chats, split so that no prompt is in two splits.

    Writes `train.parquet`, `validation.parquet`, `test.parquet` (each shuffled by the seed), `rejects.jsonl`
    (file, line, code and reason of every bad row), `statistics.json` and the data card `README.md`.
    Each Parquet row: `messages` (list of {role, content}, the last one the assistant's; with tools, calls,
    reasoning or weights in some row the fields of `stages.formats.messages`), `prompt_hash`
    (sha256 of the normalized messages before the last), `tokens` (length of the rendered chat),
    `trainable` (assistant tokens); of preferences also `rejected`, the answer that the last message is
    preferred to, and `rejected_tokens`, the length with that one. Of labelled answers these files hold the
    good ones, and `train_undesirable.parquet`, … those that were called bad. Uses the tokenizer and chat
    template of `parents["base"]`.
    Facts of kind `dataset`; metrics (also in `statistics.json`): `rows` (read, accepted, rejected),
    `rejected` by code, `dropped` (duplicates, …), `unused_fields` (field → accepted rows that have it),
    `splits` (rows, distinct prompts, tokens), `tokens` (length quantiles and histogram), `format`, `licence`,
    `source_hashes`. No file holds the place of the source: the result is the same wherever it lies.
    Raises `InvalidInput` (nothing to read or to keep, too many rejects or duplicates, no UTF-8, a base
    without a usable chat template, too few distinct prompts to split) and `MissingPackage`.

    Of a feed also `feed_rows.json` (which row is in which split) and `fresh.parquet`: with
    `parents["previous"]`, an earlier dataset of the feed, `test` holds what that one held out, `fresh` the
    held-out rows since, or where none came what was fresh in that one; without it all that is held out is
    new, and both hold the same.
    """
    from stages.backends.chat import load_tokenizer, require_trainable_template

    tokenizer = load_tokenizer(parents["base"].path)
    require_trainable_template(tokenizer)
    scratch = out / ".scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        previous = parents["previous"].path if "previous" in parents else None
        metrics = _prepare(tokenizer, config, previous, out, scratch)
    finally:
        shutil.rmtree(scratch)
        file_in(out).unlink(missing_ok=True)
    return Facts(kind="dataset", metrics=metrics)


def _prepare(
    tokenizer: Any, config: PrepareConfig, previous: Path | None, out: Path, scratch: Path
) -> dict[str, object]:
    from stages.backends.chat import render
    from stages.data.card import card
    from stages.data.collect import RowCheck, RowCounts, collect
    from stages.data.held_out import first_held_out, of_dataset, write_rows
    from stages.data.publish import first_row, write_splits
    from stages.data.row_spool import RowSpool
    from stages.data.split import SPLITS

    counts, feed = RowCounts(), feed_of(config.source) is not None
    before = of_dataset(previous) if previous is not None else None
    source = _opened(config, file_in(out))
    format, shape, rows = _shaped(source, config, counts, first_held_out(source, before))
    check = RowCheck(tokenizer, shape, config.system, config.max_length, config.train_on)
    with (
        (out / "rejects.jsonl").open("w", encoding="utf-8", errors="backslashreplace") as rejects,
        RowSpool(scratch, config.seed, config.near_duplicates, before is not None) as spool,
    ):
        collect(rows, check, spool, rejects, counts, config.max_rows)
        mixed = _mix(config, tokenizer, spool, rejects, counts)
    _refuse_unusable(counts, len(spool), config)
    names, split_of_row = _apart(spool, format, config, before, counts)
    splits = write_splits(spool.path, split_of_row, spool.places, out, names, spool.schema)
    if feed:
        write_rows(config.source, spool.lines, split_of_row, names, before, out)
    if feed and names is SPLITS:
        shutil.copyfile(out / "test.parquet", out / "fresh.parquet")
    metrics = {
        "format": format,
        "licence": config.licence or source.licence,
        "source_hashes": source.hashes,
        **({"mixed": mixed} if mixed else {}),
        **spool.kept,
        **_figures(counts, spool.lengths[split_of_row >= 0], splits, config.max_length),
    }
    (out / "statistics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", "utf-8")
    example = first_row(out, lambda chat: render(tokenizer, chat))
    (out / "README.md").write_text(card(metrics, config.model_dump(exclude_none=True), example), "utf-8")
    return metrics


def _apart(
    spool: RowSpool, format: str, config: PrepareConfig, before: HeldOut | None, counts: RowCounts
) -> tuple[Sequence[str], np.ndarray]:
    """The splits, and that of each row as `_split` has it; bad answers have splits of their own."""
    from stages.data.held_out import splits_beside
    from stages.data.split import by_label

    names, split_of_row = splits_beside(before, spool.lines), _split(spool, config, before, counts)
    if format != "unpaired-preferences":
        return names, split_of_row
    return by_label(names, split_of_row, spool.undesirable, config.source)


def _split(spool: RowSpool, config: PrepareConfig, before: HeldOut | None, counts: RowCounts) -> np.ndarray:
    """The split of each row, -1 for one that is left out, which is counted: int8 of shape (rows,)."""
    import numpy as np

    from stages.data.held_out import assign_beside
    from stages.data.split import assign

    near, shares = spool.near_duplicates(), (config.split.validation, config.split.test)
    split_of_row = np.full(len(spool), -1, dtype=np.int8)
    lines = spool.lines
    frozen = before.among(lines) if before is not None else np.zeros(len(spool), dtype=bool)
    near &= ~frozen
    counts.dropped.update(exact_duplicates=spool.exact_duplicates, near_duplicates=int(near.sum()))
    _refuse_loss(spool, near, config)
    if before is None:
        split_of_row[~near] = assign(spool.prompts[~near], *shares)
        return split_of_row
    known = int((lines <= before.watermark).sum())
    alike = spool.like_first(int(frozen.sum()), known) | spool.asks_again(frozen)
    kept = ~near
    split_of_row[kept] = assign_beside(before, lines[kept], spool.prompts[kept], alike[kept], *shares)
    counts.dropped.update(like_held_out=int((kept & (split_of_row < 0)).sum()))
    if not (split_of_row == 0).any():
        raise InvalidInput(
            f"{config.source}: no row is left to train on: each is held out, or asks what one held out asks; "
            "add rows to the feed, then run again"
        )
    return split_of_row


def _mix(
    config: PrepareConfig, tokenizer: Any, spool: RowSpool, rejects: IO[str], counts: RowCounts
) -> list[dict[str, object]]:
    """Collect the further sources' rows; what became of them, a mapping for each."""
    from stages.data.collect import RowCheck, collect
    from stages.data.source import drawn, placeless, within

    told: list[dict[str, object]] = []
    for place, (mixed, alone) in enumerate(zip(config.mix, config.sources[1:], strict=True), 1):
        source, name = _opened(alone), f"mix {place}, {placeless(mixed.source)}"
        format, shape, rows = _shaped(source, alone, counts, source.rows())
        read, good, refused = counts.read, len(spool), counts.rejected.total()
        check = RowCheck(tokenizer, shape, config.system, config.max_length, config.train_on)
        most = None if mixed.max_rows is None else good + mixed.max_rows
        collect(drawn(within(rows, name), mixed.share, config.seed), check, spool, rejects, counts, most)
        told.append(
            {
                "source": name,
                "format": format,
                "licence": source.licence,
                "source_hashes": source.hashes,
                "read": counts.read - read,
                "kept": len(spool) - good,
                "rejected": counts.rejected.total() - refused,
            }
        )
    return told


def _opened(config: PrepareConfig, feed: Path | None = None) -> Source:
    from stages.data.source import open_source

    hub, names = (config.hub_config, config.hub_split), (config.columns, config.slices)
    return open_source(config.source, config.format, *hub, feed, *names)


def first_rows(
    config: PrepareConfig, count: int = 100, feed: Path | None = None, desirable: bool = True
) -> tuple[list[Messages], list[str]]:
    """Of the source's first `count` rows the chats, as `prepare` would make them, and why others are none.

    Nothing is tokenized. Of preferences these are the chats with the chosen answers, of labelled answers
    those that are called good, or bad where not `desirable`. `feed`: a file with the rows of the feed that
    the source names.
    Raises what opening the source and telling its format raise: `InvalidInput`, `MissingPackage`.
    """
    from stages.data.collect import RowCounts
    from stages.data.preferences import read_row
    from stages.data.source_row import RowError

    source = _opened(config, feed)
    _, shape, rows = _shaped(source, config, RowCounts(), source.rows())
    chats: list[Messages] = []
    rejected: list[str] = []
    for source_row in itertools.islice(rows, count):
        try:
            if source_row.row is None:
                raise RowError("malformed", source_row.error or "the row cannot be read")
            read = read_row(shape, source_row.row, config.system, Counter(), config.train_on)
            if read.desirable == desirable:
                chats.append(read.messages)
        except RowError as error:
            rejected.append(f"{source_row.place}: {error}")
    return chats, rejected


def _shaped(
    source: Source, config: PrepareConfig, counts: RowCounts, rows: SourceRows
) -> tuple[str, str, SourceRows]:
    """The format as people call it, the shape of the rows that come, and the rows."""
    from stages.data.chats.kept import with_kept
    from stages.data.chatterbot import replies, topics
    from stages.data.collect import pick_format

    format = config.format
    if format == "auto" and source.chatterbot:
        format = "chatterbot-dialogue"
    if format == "chatterbot-topic":
        rows = topics(rows, config.topics, counts.dropped)
    elif format == "chatterbot-dialogue":
        rows = replies(rows, counts.dropped)
    else:
        shape, rows = pick_format(with_kept(rows, config.slices, config.source), format, config.source)
        return shape, shape, rows
    return format, *pick_format(rows, "prompt-completion", config.source)


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
