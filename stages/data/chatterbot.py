"""What can be learned from a chatterbot corpus: to reply, or to tell the topic of an utterance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection

from stages.data.dedupe import normalized
from stages.data.source_row import SourceRow, SourceRows
from stages.errors import InvalidInput

MIN_WORDS = 3
"""An utterance shorter than this ("Yes.", "why?") tells no topic."""


def replies(rows: SourceRows, dropped: Counter[str]) -> SourceRows:
    """Rows {prompt, completion} from the first two lines of each conversation.

    Later lines are counted as dropped: in some files they are other replies to the first line, in
    others the conversation goes on, and nothing in the file says which.
    """
    for source_row in rows:
        if source_row.row is None:
            yield source_row
            continue
        lines = source_row.row["lines"]
        dropped["later_lines"] += max(0, len(lines) - 2)
        row = {"prompt": lines[0], "completion": lines[1] if len(lines) > 1 else None}
        yield SourceRow(source_row.file, source_row.line, row)


def topics(rows: SourceRows, wanted: Collection[str] | None, dropped: Counter[str]) -> SourceRows:
    """Rows {prompt: an utterance, completion: {"topic": its file's name} as JSON}, each utterance once.

    Drops and counts utterances of fewer than `MIN_WORDS` words, those that stand under several of the wanted
    topics, and repetitions. All distinct utterances are held in memory (a corpus is a few files of text).
    Raises `InvalidInput` when a wanted topic is not in the corpus.
    """
    first: dict[str, tuple[str, str, str, int]] = {}
    ambiguous: set[str] = set()
    known: set[str] = set()
    for source_row in rows:
        if source_row.row is None:
            yield source_row
            continue
        topic = source_row.row["topic"]
        known.add(topic)
        if wanted is not None and topic not in wanted:
            continue
        for line in source_row.row["lines"]:
            key = normalized(line)
            if key in first:
                dropped["repeated_utterances"] += 1
            place = first.setdefault(key, (topic, line, source_row.file, source_row.line))
            if place[0] != topic:
                ambiguous.add(key)
    if missing := sorted(set(wanted or ()) - known):
        raise InvalidInput(
            f"topics: {', '.join(missing)} not in the corpus, which has {', '.join(sorted(known))}"
        )
    for key, (topic, line, file, number) in first.items():
        if len(key.split()) < MIN_WORDS:
            dropped["short_utterances"] += 1
        elif key in ambiguous:
            dropped["ambiguous_utterances"] += 1
        else:
            yield SourceRow(
                file, number, {"prompt": line.strip(), "completion": json.dumps({"topic": topic})}
            )
