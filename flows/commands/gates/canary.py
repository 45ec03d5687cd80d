"""`tuneline channels canary` and `channels judge`: what each does."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import FrameType

from flows.canaries.evidence import CanaryEvidence, GuardrailEvidence
from flows.canaries.judge import Judge, Judged
from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.errors import Usage
from flows.formatting import from_log10, plain, short
from flows.gates.policy import GUARDRAILS
from flows.run.readers import remark
from flows.settings import Settings
from flows.stack.programs import JUDGE_ALIVE
from registry import Registry
from registry.channels.channels import check_name
from registry.channels.decisions import CANARY
from registry.errors import RegistryError

EVERY_SECONDS = 1.0
_COLUMNS = ("guardrail", "live", "candidate", "difference (points)", "margin", "harm", "safe")


def canary(arguments: argparse.Namespace) -> Reply:
    """What a channel's canary has shown so far."""
    check_name(arguments.channel)
    with open_registry() as registry:
        evidence = Judge(registry).evidence(arguments.channel)
        if evidence is None:
            raise Usage(_none(registry, arguments.channel))
    document = {"channel": arguments.channel, **evidence.model_dump(mode="json")}

    def text() -> None:
        limit = len(evidence.guardrails) / evidence.harm_alpha
        print(f"{arguments.channel}: {evidence.requests:,} answers judged in {evidence.hours:.2f} hours")
        print_table("", _COLUMNS, [_cells(guardrail) for guardrail in evidence.guardrails])
        asked = {guardrail.guardrail for guardrail in evidence.guardrails}
        if unasked := [name for name in GUARDRAILS if name not in asked]:
            print(f"not judged, as the policy does not ask for it: {', '.join(unasked)}")
        print(f"harm is shown at an e-value of {limit:g}, safety where all reach {1 / evidence.alpha:g}:")
        print(_shown(evidence))

    return Reply(document, text)


def judge(arguments: argparse.Namespace) -> Reply:
    """Decide about all canaries until a signal ends it, or once."""
    if arguments.channel is not None:
        check_name(arguments.channel)
    judged: list[Judged] = []
    with open_registry() as registry, _until_signal() as ended:
        judging, alive = Judge(registry), Settings().root / JUDGE_ALIVE
        if not arguments.once:
            remark("tuneline channels judge: looking every second; Ctrl-C ends it")
        while not ended.is_set():
            try:
                decided = judging.round(arguments.channel)
                if arguments.channel is None and not arguments.once:  # who ends at once is not alive
                    with suppress(OSError):  # who looks at the file sees that it is old
                        alive.touch()
            except RegistryError as error:
                if arguments.once:
                    raise
                remark(f"tuneline: {plain(str(error))}; trying again")
                decided = []
            judged += decided
            if not arguments.json:
                for rollout in decided:
                    print(_line(rollout), flush=True)
            if arguments.once:
                break
            ended.wait(EVERY_SECONDS)
    document = [
        {**asdict(rollout), "evidence": rollout.evidence.model_dump(mode="json")} for rollout in judged
    ]

    def text() -> None:
        if arguments.once and not judged:
            print("nothing could be decided yet")

    return Reply(document, text)


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set inside the block: a decision that was begun is carried out."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    kept = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, before in kept.items():
            signal.signal(number, before)


def _none(registry: Registry, channel: str) -> str:
    """Why nothing is judged there, and what to do."""
    policy, rollout = registry.channels.policy(channel), registry.rollouts.current(channel)
    if policy is None or not policy.policy.get(CANARY):
        return (
            f"the policy of channel {channel} asks for no canary: give its gate a `canary` section "
            f"(tuneline channels policy {channel} --set FILE --reason WHY)"
        )
    if rollout is None:
        command = f"tuneline channels rollout {channel} CANDIDATE --canary 10 --reason WHY"
        return f"channel {channel} has no canary; start one: {command}"
    return f"the rollout of channel {channel} is a shadow alone; with --canary PERCENT it is judged"


def _cells(guardrail: GuardrailEvidence) -> tuple[str, ...]:
    return (
        guardrail.guardrail,
        f"{guardrail.live_bad:,} of {guardrail.live:,}",
        f"{guardrail.canary_bad:,} of {guardrail.canary:,}",
        f"{100 * guardrail.low:+.1f} to {100 * guardrail.high:+.1f}",
        f"{100 * guardrail.margin:g}",
        from_log10(guardrail.log10_e_harm),
        from_log10(guardrail.log10_e_safe),
    )


def _shown(evidence: CanaryEvidence) -> str:
    words = {"harm": "harm is shown", "safe": "safety is shown", "neither": "neither is shown yet"}
    return words[evidence.shown]


def _line(judged: Judged) -> str:
    done = "promoted" if judged.ending == "safe" and judged.decision else "stopped"
    cited = f"; decision {judged.decision[:12]}" if judged.decision else ""
    return f"{judged.channel}: {done} {short(judged.candidate)}, {judged.sentence}{cited}"
