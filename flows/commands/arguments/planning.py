"""The arguments of `tuneline plan`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

GPUS = ("T4", "L4", "A10", "L40S", "A100-40GB", "A100-80GB", "H100", "H200")
"""As `flows.planning.serving.steps` has them, which would load more."""


def add_plan_commands(add: Callable[..., argparse.ArgumentParser], group: Callable[..., Any]) -> None:
    """What an engine will need and answer."""
    plans = group("plan", "what an engine will need and answer, before it is started")
    text = "how many requests a second and tenants an engine carries within a p99, and the memory it needs"
    serve = add("serve", "serving.plan:plan_serve", text, plans)
    serve.add_argument(
        "model", help="a channel, an artifact, a GGUF file, or a base such as hub:OWNER/NAME (vllm)"
    )
    serve.add_argument("--engine", choices=("llama.cpp", "vllm"), default="llama.cpp")
    serve.add_argument("--gpu", choices=GPUS, help="with vllm: reckoned from its data sheet, not run")
    for name, default, text in (
        ("tenants", 1, "tenants, each with an adapter of its own"),
        ("prompt", 512, "tokens of a prompt that no cache holds"),
        ("answer", 128, "tokens of an answer"),
        ("slots", 4, "answers decoded at once (`parallel` in serve.yaml)"),
    ):
        serve.add_argument(f"--{name}", type=_count, default=default, help=f"{text} (default {default})")
    text = "rank of the adapters; 0: all tenants ask the model itself (default 16; 0 for a tuned model)"
    serve.add_argument("--rank", type=_rank, default=16, help=text)
    serve.add_argument("--context-length", type=_count, help="default: prompt and answer together")
    serve.add_argument("--threads", type=_count, help="of llama.cpp (default: all cores)")
    text = "seconds within which 99 of 100 answers have to be complete (default 30)"
    serve.add_argument("--p99", type=_positive, default=30.0, metavar="SECONDS", help=text)
    text = "the same for the first token"
    serve.add_argument("--first-p99", type=_positive, metavar="SECONDS", help=text)
    serve.add_argument("--rate", type=_positive, help="requests a second that have to be answered")
    text = "requests a second of each tenant: says how many tenants that makes"
    serve.add_argument("--per-tenant", type=_positive, metavar="RATE", help=text)


def _count(text: str) -> int:
    return _whole(text, 1)


def _rank(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {least} on")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value
