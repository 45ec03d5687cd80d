"""The arguments of `tuneline gate`, `promote` and `channels`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.commands.arguments.tenants import add_channel_commands

BACKUP_ACTIONS = ("make", "ls", "verify")
GATE_ACTIONS = ("run", "plan", "show")
WAIVABLE = ("contamination", "size", "bits per weight", "latency")


def implied_action(argv: Sequence[str]) -> list[str]:
    """`gate POLICY …` means `gate run POLICY …`, and `backup DEST` means `backup make DEST`."""
    arguments = list(argv)
    if arguments[:1] == ["gate"] and arguments[1:2] and arguments[1] not in (*GATE_ACTIONS, "-h", "--help"):
        arguments.insert(1, "run")
    named = (*BACKUP_ACTIONS, "-h", "--help")
    if arguments[:1] == ["backup"] and arguments[1:2] and arguments[1] not in named:
        arguments.insert(1, "make")
    return arguments


def add_gate_commands(add: Callable[..., argparse.ArgumentParser], verbs: Any) -> None:
    """`gate run|plan|show`, `promote`, `channels [show|policy|rollout|outcomes]`."""
    text = "judge a candidate by a policy, from logged samples"
    gate = verbs.add_parser(
        "gate",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. `gate POLICY …` means `gate run POLICY …`.",
    )
    actions = gate.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_run(add("run", "gates.gate:run", text, actions))
    plan = add("plan", "gates.gate:plan", "how many items each rule of a policy needs", actions)
    plan.add_argument("policy", help="a YAML file, or a channel whose policy is meant")
    text = "share of items that the two models answer differently; repeatable (default 0.02, 0.04, 0.08)"
    plan.add_argument("--flip-rate", type=float, action="append", metavar="SHARE", help=text)
    plan.add_argument("--items", type=int, help="also say what this many items can show")
    plan.add_argument(
        "--spread", type=float, help="standard deviation of the difference, for rules with scores: real"
    )
    show = add("show", "gates.gate:show", "a recorded decision, and whether its signature holds", actions)
    show.add_argument("id", help="an id of a decision, or its first 6 or more digits")

    promote = add("promote", "gates.gate:promote", "point a channel to an artifact that passed its gate")
    promote.add_argument("ref", help="an id, its first 6 or more digits, or NAME@VERSION")
    promote.add_argument("channel", help="TEAM/NAME")
    promote.add_argument("--decision", help="a gate decision (default: the latest about the artifact)")
    promote.add_argument("--waive", action="store_true", help="go without a gate; needs --reason and --who")
    promote.add_argument("--reason", help="why no gate is needed; kept in the channel's history")
    promote.add_argument("--who", help="who answers for it; kept in the channel's history")
    _add_channels(add, verbs)


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("policy", help="a YAML file (a recipe's gate counts too), or a channel with a policy")
    run.add_argument(
        "--candidate", required=True, metavar="REF", help="an artifact, or the directory of an evaluation"
    )
    text = "a channel, an artifact, or the directory of an evaluation (default: --channel)"
    run.add_argument("--baseline", metavar="REF", help=text)
    run.add_argument("--channel", help="the channel that the candidate is meant for")
    run.add_argument(
        "--parent", type=Path, metavar="DIR", help="the merged model's evaluation, of directories"
    )
    run.add_argument("--quant", help="the candidate's quantization type, of directories: gptq, Q4_K_M, …")
    run.add_argument(
        "--trained-on",
        type=Path,
        metavar="DIR",
        help="the prepared dataset it was trained on, of directories",
    )
    run.add_argument(
        "--latency", type=Path, metavar="FILE", help='JSON: {"subject": ID, "milliseconds": [durations]}'
    )
    text = "people's labels of answers, which a judge is held against; docs/judge.md"
    run.add_argument("--labels", type=Path, metavar="FILE", help=text)
    run.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit XML report")
    run.add_argument("--markdown", type=Path, metavar="FILE", help="write a summary in Markdown")
    text = "let this finding through; needs --reason and --who"
    run.add_argument("--waive", choices=WAIVABLE, action="append", default=[], help=text)
    run.add_argument("--reason", help="why it is waived; recorded in the decision")
    run.add_argument("--who", help="who answers for it; recorded in the decision")


def _add_channels(add: Callable[..., argparse.ArgumentParser], verbs: Any) -> None:
    channels = add("channels", "gates.channels:channels", "what each channel points to")
    actions = channels.add_subparsers(dest="action", metavar="ACTION")
    show = add("show", "gates.channels:channel_show", "one channel, its policy and its history", actions)
    show.add_argument("channel")
    policy = add("policy", "gates.channels:channel_policy", "print or set a channel's policy", actions)
    policy.add_argument("channel")
    policy.add_argument(
        "--set", type=Path, metavar="FILE", dest="file", help="a policy, or a recipe with a gate"
    )
    policy.add_argument("--reason", help="why it is set; kept with it")
    add_channel_commands(add, actions)
