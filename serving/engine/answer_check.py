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
from serving.errors import EngineFailed, NotServable

MOST = 8
"""Questions at most; the first answer that is the recorded one is enough."""
TOKENS = 8
"""Of an answer. Two engines round differently, and a long answer would show that."""


@dataclass(frozen=True)
class ExpectedAnswer:
    """A question, and what the artifact answered when it was evaluated."""

    messages: tuple[dict[str, str], ...]
    answer: str


def recorded_answers(registry: Registry, artifact: Artifact) -> list[ExpectedAnswer]:
    """Held-out questions of the artifact's own evaluations that its base answers otherwise, newest first.

    Where no evaluation of its base on the same data is on record, all of them; empty for a base, and where
    the artifact has no evaluation with held-out answers. Raises RegistryError.
    """
    if artifact.manifest.kind == "base":
        return []
    for evaluation in reversed(_own(registry, artifact.id)):
        dataset = _parent(evaluation, "evaluated_on")
        said = _answers(registry.view(evaluation.id))
        if dataset is None or not said:
            continue
        base = _parent(evaluation, "tokenized_for")
        others = (
            [one for one in _own(registry, base) if _parent(one, "evaluated_on") == dataset] if base else []
        )
        base_said = _answers(registry.view(others[-1].id)) if others else {}
        told = {place: answer for place, answer in said.items() if answer != base_said.get(place)}
        return [
            ExpectedAnswer(messages, told[place])
            for place, messages in zip(told, _messages(registry.view(dataset), list(told)), strict=True)
        ][:MOST]
    return []


def _own(registry: Registry, artifact_id: str) -> list[Artifact]:
    """Evaluations of this artifact by itself, not of it with another beside it."""
    return [
        one for one in registry.evaluations(artifact_id)
        if [p.id for p in one.manifest.parents if p.relation == "evaluation_of"] == [artifact_id]
    ]  # fmt: skip


def _parent(evaluation: Artifact, relation: str) -> str | None:
    return next((p.id for p in evaluation.manifest.parents if p.relation == relation), None)


def _answers(evaluation: Path) -> dict[int, str]:
    """Place in the test split → answer, of the first held-out task; answers of nothing are left out."""
    heldout = first_heldout(evaluation)
    items = read_items(evaluation, heldout) if heldout else []
    return {item["document"]: answer for item in items if (answer := str(item.get("answer") or "").strip())}


def _messages(dataset: Path, places: Sequence[int]) -> Iterator[tuple[dict[str, str], ...]]:
    import pyarrow.parquet as pq

    rows = pq.read_table(dataset / "test.parquet", columns=["messages"])["messages"]
    for place in places:
        yield tuple({"role": m["role"], "content": m["content"]} for m in rows[place].as_py()[:-1])


async def require_recorded(socket: Path, model: str, recorded: Sequence[ExpectedAnswer]) -> None:
    """Ask `model` on `socket` until it begins one answer as recorded; nothing to do where none is.

    Raises `NotServable` when no answer does, `EngineFailed` when there is none.
    """
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=None) as client:
        found = ""
        for one in recorded:
            found = await _asked(client, model, one.messages)
            if found and (one.answer.startswith(found) or found.startswith(one.answer)):
                return
    if recorded:
        raise NotServable(
            f"{model} answers none of {len(recorded)} held-out questions as it did when it was evaluated: "
            f"{found[:80]!r} instead of {recorded[-1].answer[:80]!r}, so another model may be answering. "
            "Evaluate the artifact again, or serve it by the engine that it was evaluated for"
        )


async def _asked(client: httpx.AsyncClient, model: str, messages: tuple[dict[str, str], ...]) -> str:
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": TOKENS, "temperature": 0}
    try:
        answer = await client.post("/v1/chat/completions", json=body)
        return str(answer.json()["choices"][0]["message"]["content"] or "").strip()
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EngineFailed(f"the engine gave no answer to a held-out question: {error!r}") from None
