"""Does a started engine say what its artifact said when it was evaluated?

Files are known by their digests. That an engine also computes with them as it should, and with nothing else,
only its answers show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from registry import Artifact, Registry
from registry.evaluation_results import first_heldout, read_items
from serving.engine.client import over_socket
from serving.errors import EngineFailed, NotServable

MOST = 8
"""Questions at most; the first answer that is the recorded one is enough."""
TOKENS = 8
"""Of an answer. Two engines round differently, and a long answer would show that."""

Chat = tuple[dict[str, str], ...]
_NOT_ASKED = ("tools", "tool_calls", "tool_call_id", "reasoning_content")
"""Rows whose messages have one of these are not asked: not every engine takes them."""


@dataclass(frozen=True)
class ExpectedAnswer:
    """A question, and what the artifact answered when it was evaluated."""

    messages: Chat
    answer: str


def recorded_answers(
    registry: Registry, artifact: Artifact, beside: str | None = None, most: int = MOST
) -> list[ExpectedAnswer]:
    """Held-out questions of the artifact's own evaluations that its base answers otherwise, newest first.

    With `beside`, of its evaluations together with the artifact of that id, and no other. Where no evaluation
    of its base on the same data is on record, all of them; empty for a base, and where the artifact has no
    evaluation with held-out answers. Raises RegistryError.
    """
    if artifact.manifest.kind == "base":
        return []
    for evaluation in reversed(_evaluations(registry, artifact.id, beside)):
        dataset = _parent(evaluation, "evaluated_on")
        answers = _answers(registry.view(evaluation.id))
        if dataset is None or not answers:
            continue
        base = _parent(evaluation, "tokenized_for")
        of_base = [
            other
            for other in (_evaluations(registry, base) if base else ())
            if _parent(other, "evaluated_on") == dataset
        ]
        base_answers = _answers(registry.view(of_base[-1].id)) if of_base else {}
        rows = [row for row, answer in answers.items() if answer != base_answers.get(row)]
        messages = _messages(registry.view(dataset), rows)
        return [ExpectedAnswer(chat, answers[row]) for row, chat in messages][:most]
    return []


def _evaluations(registry: Registry, artifact_id: str, beside: str | None = None) -> list[Artifact]:
    """Evaluations of this artifact by itself, or of it with exactly that other one beside it."""
    evaluations, measured = [], {artifact_id} if beside is None else {artifact_id, beside}
    for evaluation in registry.evaluations(artifact_id):
        parents = evaluation.manifest.parents
        if {parent.id for parent in parents if parent.relation == "evaluation_of"} == measured:
            evaluations.append(evaluation)
    return evaluations


def _parent(evaluation: Artifact, relation: str) -> str | None:
    parents = evaluation.manifest.parents
    return next((parent.id for parent in parents if parent.relation == relation), None)


def _answers(evaluation: Path) -> dict[int, str]:
    """Row of the test split → answer, of the first held-out task; empty answers are left out."""
    heldout = first_heldout(evaluation)
    items = read_items(evaluation, heldout) if heldout else []
    return {item["document"]: answer for item in items if (answer := str(item.get("answer") or "").strip())}


def _messages(dataset: Path, rows: Sequence[int]) -> Iterator[tuple[int, Chat]]:
    """Each row with what is asked in it, but for those with tools, calls or reasoning."""
    import pyarrow.parquet as pq

    chats = pq.read_table(dataset / "test.parquet", columns=["messages"])["messages"]
    for row in rows:
        asked = chats[row].as_py()[:-1]
        if not any(m.get(name) is not None for m in asked for name in _NOT_ASKED):
            yield row, tuple({"role": m["role"], "content": m["content"]} for m in asked)


def as_recorded(answer: str, recorded: str) -> bool:
    """Whether one of the two, of which either may have been cut short, begins as the other goes."""
    answer = answer.strip()
    return bool(answer) and (recorded.startswith(answer) or answer.startswith(recorded))


async def require_recorded(socket: Path, model: str, expected: Sequence[ExpectedAnswer]) -> None:
    """Ask `model` on `socket` until it begins one answer as recorded; nothing to do where none is.

    Raises `NotServable` when no answer does, `EngineFailed` when there is none.
    """
    async with over_socket(socket) as client:
        answer = ""
        for question in expected:
            answer = await _ask(client, model, question.messages)
            if as_recorded(answer, question.answer):
                return
    if expected:
        raise NotServable(
            f"{model} answers none of {len(expected)} held-out questions as it did when it was evaluated: "
            f"{answer[:80]!r} instead of {expected[-1].answer[:80]!r}, so another model may be answering. "
            "Evaluate the artifact again, or serve it by the engine that it was evaluated for"
        )


async def _ask(client: httpx.AsyncClient, model: str, messages: Chat) -> str:
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": TOKENS, "temperature": 0}
    body["reasoning_format"] = "none"  # as it was recorded
    try:
        answer = await client.post("/v1/chat/completions", json=body)
        return str(answer.json()["choices"][0]["message"]["content"] or "").strip()
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EngineFailed(f"the engine gave no answer to a held-out question: {error!r}") from None
