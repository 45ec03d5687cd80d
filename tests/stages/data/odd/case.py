"""A kind of odd data, and what is found out that `prepare` does with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.config.prepare import PrepareConfig
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.prepare import prepare
from tests.stages.data.prepared import rejects, splits

PLAIN = {"prompt": "What is two and two?", "completion": "Four."}
"""A row without anything odd, after the odd ones, so that there is something to train on."""


@dataclass(frozen=True)
class Case:
    """`data`: rows, or a whole file as text or bytes. `expected`: all that `outcome` tells where the data are
    used, and the beginning of it where a row or the run is refused."""

    kind: str
    data: list[Any] | str | bytes
    expected: str
    file: str = "rows.jsonl"
    settings: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    plain: Any = field(default_factory=lambda: PLAIN)

    def write(self, folder: Path) -> Path:
        """The file; rows are followed by a plain one."""
        path = folder / self.file
        if isinstance(self.data, bytes):
            path.write_bytes(self.data)
        elif isinstance(self.data, str):
            path.write_bytes(self.data.encode())
        else:
            rows = [*self.data, *([self.plain] if self.plain else [])]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path


def outcome(case: Case, base: Parent, folder: Path) -> str:
    """What becomes of the case's data: `used: …`, `row refused: …` or `run refused: …`."""
    folder.mkdir()
    out = folder / "out"
    out.mkdir()
    split = {"validation": 0, "test": 0}
    settings = {"max_rejected": 1, "max_deduplicated": 1, "split": split, **case.settings}
    try:
        config = PrepareConfig(source=f"path:{case.write(folder)}", **settings)
        facts = prepare({"base": base}, config, out)
    except InvalidInput as error:
        message = str(error).replace(f"{folder}/", "").replace(str(base.path), "models/base")
        return f"run refused: {message}"
    refused = [f"row refused: {r['code']}: {r['reason']}" for r in rejects(out)]
    plain = (PLAIN["prompt"], (case.plain or {}).get("text"))
    chats = [row for row in splits(out)["train"] if row["messages"][0]["content"] not in plain]
    used = ["used: " + shown(row) for row in sorted(chats, key=lambda row: str(row["messages"]))]
    unused = facts.metrics["unused_fields"]
    return " / ".join([*used, *refused]) + (f" (not used: {', '.join(unused)})" if unused else "")


def shown(row: dict[str, Any]) -> str:
    """Each message of a chat; what is learned in bold."""
    parts = [_message(message) for message in row["messages"]]
    if row.get("rejected"):
        parts.append("not " + _message(row["rejected"]).replace("**", ""))
    if row.get("references"):
        parts.append(f"also right: {', '.join(map(json.dumps, row['references']))};")
    if row.get("slices"):
        parts.append(f"slices: {row['slices']};")
    return " ".join(parts)


def _message(message: dict[str, Any]) -> str:
    texts = []
    if message.get("tools"):
        texts.append("tools " + ", ".join(t["function"]["name"] for t in json.loads(message["tools"])))
    if message.get("reasoning_content"):
        texts.append(f"thought {json.dumps(message['reasoning_content'], ensure_ascii=False)}")
    if message["content"] or not message.get("tool_calls"):
        texts.append(json.dumps(message["content"], ensure_ascii=False))
    for call in message.get("tool_calls") or ():
        texts.append(f"{call['id']} {call['function']['name']}{call['function']['arguments']}")
    if message.get("tool_call_id"):
        texts.append(f"of {message['tool_call_id']}")
    said = f"{message['role']}: {', '.join(texts)};"
    learned = message["role"] in ("assistant", "document") and message.get("weight") != 0
    return f"**{said}**" if learned else said
