"""`tuneline prepare`, `merge`, `quantize` and `evaluate` on plain directories."""

from __future__ import annotations

import argparse
import shlex
import time

from flows.commands.figures import figures
from flows.commands.reply import Reply
from flows.formatting import as_typed, duration, plain

NEXT = {
    "prepare": "give it as --dataset to `tuneline evaluate` or `tuneline quantize`",
    "merge": "`tuneline quantize --model {out} --out NEW --set method=gguf --set type=Q4_K_M`",
    "quantize": "`tuneline evaluate --model {out} --base BASE --dataset DATA --out NEW`",
    "evaluate": "`tuneline gate POLICY --candidate {out} --baseline OTHER` compares it with another one",
}


def stage(arguments: argparse.Namespace) -> Reply:
    """One stage on plain directories: what was made, where, and its main figures."""
    from flows.run.standalone_stage import run_plain

    roles = ("base", "model", "adapter", "dataset")
    parents = {role: path for role in roles if (path := getattr(arguments, role, None)) is not None}
    started = time.monotonic()
    facts = run_plain(arguments.stage, parents, arguments.set, arguments.out)
    took = duration(time.monotonic() - started)

    def show() -> None:
        print(plain(f"{arguments.stage}: {facts['kind']} in {arguments.out}, made in {took}"))
        for name, text in figures(facts):
            print(plain(f"  {name:<13} {text}"))
        print(as_typed(f"  {'next':<13} {NEXT[arguments.stage].format(out=shlex.quote(str(arguments.out)))}"))

    return Reply({"out": str(arguments.out), "facts": facts}, show)
