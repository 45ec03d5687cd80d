"""`tuneline data`: the rows of a prepared dataset, for somebody to look at, and what they hold."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.errors import Usage
from flows.formatting import plain
from registry import Artifact, Registry

if TYPE_CHECKING:
    from stages.data.report.report import SplitReport

MARKS = ("⟦", "⟧")
"""Around what is trained, where there are no colours."""
_TRAINED, _END = "\x1b[7m", "\x1b[0m"


def view(arguments: argparse.Namespace) -> Reply:
    """Some rows of a split as the model sees them, or of what was rejected."""
    if arguments.start < 1 or arguments.rows < 1:
        raise Usage("--from and --rows count from 1")
    folder, base = _folders(arguments)
    if arguments.split == "rejected":
        return _rejected(folder, arguments)
    from flows.run.dataset_rows import SPLITS, chats_of, matching, rendered

    file = folder / f"{arguments.split}.parquet"
    if not file.is_file():
        there = ", ".join([name for name in SPLITS if (folder / f"{name}.parquet").is_file()])
        raise Usage(f"{arguments.dataset} has no split {arguments.split}; expected {there or 'a dataset'}")
    some, total = matching(file, arguments.search, arguments.start - 1, arguments.rows)
    chats = [chats_of(row) for row in some]
    texts = iter(rendered(base, [chat for both in chats for chat in both]) if some else [])
    rows = [
        {"row": number, "tokens": row["tokens"], "trainable": row["trainable"], **_shown(next(texts))}
        | ({"rejected": _shown(next(texts))} if len(both) > 1 else {})
        for number, (row, both) in enumerate(zip(some, chats, strict=True), arguments.start)
    ]

    def show() -> None:
        print(plain(f"{arguments.dataset}, {arguments.split}: {_counted(total, 'row')}"))
        for row in rows:
            print(f"\nrow {row['row']}, {row['tokens']:,} tokens, {row['trainable']:,} of them trained")
            print(_text(row))
            if "rejected" in row:
                print(f"rejected:\n{_text(row['rejected'])}")

    return Reply({"split": arguments.split, "total": total, "rows": rows}, show)


def report(arguments: argparse.Namespace) -> Reply:
    """What the dataset's splits hold, and what its owner may want to know before it is trained on."""
    if not 0 < arguments.similar <= 1:
        raise Usage(f"--similar {arguments.similar:g}: expected a share above 0, at most 1")
    from stages.data.report.report import report as examine

    found = examine(_folder(arguments.dataset), arguments.similar)
    if not found.splits:
        raise Usage(f"{arguments.dataset} has no split: expected a dataset that `prepare` made")

    def show() -> None:
        print_table(plain(arguments.dataset), _SPLIT_COLUMNS, [_split_row(split) for split in found.splits])
        if found.sensitive:
            rows = [
                (
                    s.kind,
                    f"{s.rows:,}",
                    f"{s.occurrences:,}",
                    ", ".join(f"{a} {b} ({c})" for a, b, c in s.places),
                )
                for s in found.sensitive
            ]
            columns = ("kind", "rows", "times", "first places: split, row (message)")
            print_table("Likely secrets and personal data, by pattern", columns, rows)
        else:
            print("No likely secret and no personal data, as far as patterns tell.")
        alike = _counted(found.similar, "test row")
        print(f"{alike} with a likeness of {found.threshold:g} or more to what a trained row asks")
        if found.pairs:
            pairs = [(f"{pair.likeness:.2f}", f"{pair.test:,}", f"{pair.train:,}") for pair in found.pairs]
            print_table("The most alike", ("likeness", "test row", "train row"), pairs)

    return Reply(asdict(found), show)


_SPLIT_COLUMNS = ("split", "rows", "tokens: median", "95 %", "longest", "trained", "languages")


def _split_row(split: SplitReport) -> tuple[str, ...]:
    counts = (split.median_tokens, split.p95_tokens, split.longest_tokens)
    rows = f"{split.rows:,}" if split.read == split.rows else f"{split.rows:,} (first {split.read:,} read)"
    return (
        split.split,
        rows,
        *(f"{count:,}" for count in counts),
        f"{100 * split.trained_share:.0f} %",
        split.main_languages,
    )


def _folder(dataset: str) -> Path:
    """The directory of a prepared dataset."""
    if (folder := Path(dataset)).is_dir():
        return folder
    with open_registry() as registry:
        return registry.view(_artifact(registry, dataset).id)


def _artifact(registry: Registry, dataset: str) -> Artifact:
    artifact = registry.get(dataset)
    if artifact.manifest.kind != "dataset":
        raise Usage(f"{dataset} is a {artifact.manifest.kind}: only datasets have rows")
    return artifact


def _folders(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The dataset's directory, and that of the tokenizer that renders it."""
    if (folder := Path(arguments.dataset)).is_dir():
        if arguments.base is None and arguments.split != "rejected":
            raise Usage(f"{folder} does not say which base it is for: give the base's directory as --base")
        return folder, arguments.base
    with open_registry() as registry:
        artifact = _artifact(registry, arguments.dataset)
        base = next(p.id for p in artifact.manifest.parents if p.relation == "tokenized_for")
        return registry.view(artifact.id), arguments.base or registry.view(base)


def _rejected(folder: Path, arguments: argparse.Namespace) -> Reply:
    file = folder / "rejects.jsonl"
    lines = file.read_bytes().splitlines() if file.is_file() else []
    found = [line for line in lines if arguments.search.lower() in line.decode().lower()]
    rows = [json.loads(line) for line in found[arguments.start - 1 :][: arguments.rows]]

    def show() -> None:
        print(plain(f"{arguments.dataset}: {_counted(len(found), 'rejected row')}"))
        for row in rows:
            within = f", row {row['row']}" if "row" in row else ""
            print(plain(f"{row['file']} line {row['line']}{within}: {row['reason']}"))

    return Reply({"split": "rejected", "total": len(found), "rows": rows}, show)


def _shown(chat: Any) -> dict[str, Any]:
    if isinstance(chat, str):
        return {"refused": chat}
    return {"pieces": [{"text": text, "trained": trained} for text, trained in chat]}


def _text(row: dict[str, Any]) -> str:
    if "refused" in row:
        return plain(f"refused: {row['refused']}")
    start, end = (_TRAINED, _END) if sys.stdout.isatty() else MARKS
    return "".join(
        f"{start}{plain(piece['text'])}{end}" if piece["trained"] else plain(piece["text"])
        for piece in row["pieces"]
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
