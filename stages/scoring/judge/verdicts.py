"""The scores that a judge gives a task's items."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from stages.config.judge_metric import JudgeMetric, names_file
from stages.contract import progress
from stages.errors import StageError
from stages.scoring.judge.endpoint import ask
from stages.scoring.judge.opponent import opponents, recorded_answers
from stages.scoring.judge.prompt import Prompt, Verdict, load_prompt, message_of, schema_of, verdict_of
from stages.scoring.judge.replies import Replies, Request
from stages.scoring.judge.running import identity, require_there, running
from stages.scoring.user_function import Answered

_TRIED = "Four."
AT_ONCE = 4
"""Questions that are under way to the judge at one time."""
_WON = {("first", "second"): 1.0, ("second", "first"): 0.0}
"""Verdicts with the answer first, and with it second → its score; all others are a tie."""
_OTHER = {"first": "second", "second": "first", "tie": "tie"}


class JudgeReport(TypedDict):
    """What `results.json` says of a judge. `prompt`: its name and version; `judge`: what of it decides its
    replies; of pairs: those that were asked about, those judged alike in both orders, and those of which the
    judge took the first, or the second, whichever it was."""

    compare: Literal["rubric", "pairwise"]
    prompt: str
    prompt_sha256: str
    judge: dict[str, str]
    items: int
    pairs: NotRequired[int]
    same_in_both_orders: NotRequired[int]
    first_preferred: NotRequired[int]
    second_preferred: NotRequired[int]


class JudgedItems(NamedTuple):
    """`scores` and `notes` (what the judge said) of each item, in their order, and what was found of all."""

    scores: list[float]
    notes: list[dict[str, Any]]
    report: JudgeReport


def require_usable(metric: JudgeMetric) -> None:
    """Raise `InvalidInput` where the metric's files cannot be read or its key is not there; asks nothing."""
    load_prompt(metric)
    require_there(metric)
    if metric.answers is not None and names_file(metric.answers):
        recorded_answers(metric)


def require_answering(metric: JudgeMetric) -> None:
    """Ask an endpoint one question of the metric's kind, whose reply is thrown away; a file is not tried.

    Raises `InvalidInput` as `require_usable` does, `StageError` where there is no answer or no verdict.
    """
    if metric.url is None:
        return
    texts = {"answer": _TRIED} if metric.compare == "rubric" else {"first": _TRIED, "second": _TRIED}
    chat = [{"role": "user", "content": "What is two and two?"}]
    with running(metric, identity(metric)) as endpoint, endpoint.client() as client:
        try:
            message = message_of(metric, load_prompt(metric), chat, texts)
            _verdict(metric, ask(client, endpoint, _body(metric, message)))
        except StageError as error:
            raise StageError(f"asked before anything is generated: {error}") from None


def judge(metric: JudgeMetric, items: Sequence[Answered], replies: Replies | None = None) -> JudgedItems:
    """What the judge says of each item. What it said before (`replies`) is not asked again.

    Raises `InvalidInput` as `require_usable` does; `StageError` where the judge refuses, gives no answer, or
    replies something else than a verdict.
    """
    prompt = load_prompt(metric)
    if metric.compare == "rubric":
        found, scores, notes = _graded(metric, prompt, items, replies or Replies())
        pairs: list[tuple[Verdict, Verdict]] = []
    else:
        found, scores, notes, pairs = _compared(metric, prompt, items, replies or Replies())
    report: JudgeReport = {
        "compare": metric.compare,
        "prompt": prompt.name,
        "prompt_sha256": hashlib.sha256(prompt.text.encode()).hexdigest(),
        "judge": found,
        "items": len(items),
    }
    if metric.compare == "pairwise":
        report |= {
            "pairs": len(pairs),
            "same_in_both_orders": sum(one == _OTHER[str(other)] for one, other in pairs),
            "first_preferred": sum(pair == ("first", "first") for pair in pairs),
            "second_preferred": sum(pair == ("second", "second") for pair in pairs),
        }
    return JudgedItems(scores, notes, report)


def words(name: str, report: JudgeReport) -> str:
    """What a reader of the figures has to know of the judge."""
    judge = report["judge"]
    called = judge.get("model") or f"GGUF {judge['file'][:12]}"
    prompt = report["prompt"].partition("@")[0]
    orders = ""
    if report.get("pairs"):
        orders = f"; {report['same_in_both_orders']} of {report['pairs']} pairs alike in both orders"
    return f"{name} by {called} (prompt {prompt}{orders})"


def _graded(
    metric: JudgeMetric, prompt: Prompt, items: Sequence[Answered], replies: Replies
) -> tuple[dict[str, str], list[float], list[dict[str, Any]]]:
    messages = []
    for item in items:
        right = "\n\nor:\n\n".join(item.references)
        shown = {"reference": right} if metric.reference and right else {}
        messages.append(message_of(metric, prompt, item.messages, {**shown, "answer": item.answer}))
    found, verdicts = _ask_all(metric, messages, replies)
    return found, [float(verdict) for verdict in verdicts], [{"verdict": verdict} for verdict in verdicts]


def _compared(
    metric: JudgeMetric, prompt: Prompt, items: Sequence[Answered], replies: Replies
) -> tuple[dict[str, str], list[float], list[dict[str, Any]], list[tuple[Verdict, Verdict]]]:
    """Two questions for each pair that differs, the answer first in one and second in the other."""
    others = opponents(metric, [item.messages for item in items], [item.references[0] for item in items])
    messages = []
    for item, other in zip(items, others, strict=True):
        if item.answer.strip() != other.strip():
            for first, second in ((item.answer, other), (other, item.answer)):
                texts = {"first": first, "second": second}
                messages.append(message_of(metric, prompt, item.messages, texts))
    found, verdicts = _ask_all(metric, messages, replies)
    pairs = list(zip(verdicts[::2], verdicts[1::2], strict=True))
    left = iter(pairs)
    scores: list[float] = []
    notes: list[dict[str, Any]] = []
    for item, other in zip(items, others, strict=True):
        pair = None if item.answer.strip() == other.strip() else next(left)
        scores.append(0.5 if pair is None else _WON.get((str(pair[0]), str(pair[1])), 0.5))
        notes.append({"other": other, "verdicts": list(pair or ())})
    return found, scores, notes, pairs


def _ask_all(
    metric: JudgeMetric, messages: Sequence[str], replies: Replies
) -> tuple[dict[str, str], list[Verdict]]:
    """The judge's identity, and its verdict on each message; the same message is asked once."""
    judge = identity(metric)
    judge_as_run: dict[str, Any] = dict(judge)
    if metric.gguf is not None:
        judge_as_run["context_length"] = metric.context_length
    requests: dict[str, Request] = {
        message: {"judge": judge_as_run, "body": _body(metric, message)} for message in messages
    }
    found = {message: replies.find(request) for message, request in requests.items()}
    missing = [message for message, reply in found.items() if reply is None]
    if missing:
        found.update(_asked(metric, judge, {message: requests[message] for message in missing}, replies))
    return judge, [_verdict(metric, found[message] or "") for message in messages]


def _body(metric: JudgeMetric, message: str) -> dict[str, Any]:
    """The request for a verdict, without the model's name."""
    answer_form = {"name": "verdict", "strict": True, "schema": schema_of(metric)}
    return {
        "temperature": 0,
        "seed": metric.seed,
        "max_tokens": metric.max_tokens,
        "response_format": {"type": "json_schema", "json_schema": answer_form},
        "messages": [{"role": "user", "content": message}],
    }


def _asked(
    metric: JudgeMetric, judge: Mapping[str, str], requests: Mapping[str, Request], replies: Replies
) -> dict[str, str]:
    """The reply to each message, from the judge itself; each is kept as soon as it is there."""
    with running(metric, judge) as endpoint, endpoint.client() as client:

        def reply_to(request: Request) -> str:
            reply = ask(client, endpoint, request["body"])
            _verdict(metric, reply)
            replies.keep(request, reply)
            return reply

        with ThreadPoolExecutor(AT_ONCE) as pool:
            asked: dict[str, Future[str]] = {
                message: pool.submit(reply_to, request) for message, request in requests.items()
            }
            try:
                return {
                    message: _reported(future.result(), number, len(asked))
                    for number, (message, future) in enumerate(asked.items(), start=1)
                }
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _reported(reply: str, done: int, total: int) -> str:
    progress(done, total, "verdicts")
    return reply


def _verdict(metric: JudgeMetric, reply: str) -> Verdict:
    try:
        return verdict_of(metric, reply)
    except StageError as error:
        raise StageError(f"metric {metric.name}: {error}") from None
