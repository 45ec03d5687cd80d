"""`tuneline doctor`: look at everything that a run rests on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec

from flows.commands.reply import Reply
from flows.doctor import places, software
from flows.doctor.finding import Finding
from flows.formatting import plain
from flows.planning.machine import machine
from flows.settings import Settings

OF_RUNS = ("arithmetic", "gpu", "vllm", "prefect")
"""What the light installation does not need and cannot look at."""


def doctor(arguments: argparse.Namespace) -> Reply:
    """One line for each thing; exit code 3 when one fails."""
    settings = Settings()
    here = machine(settings.root)
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", software.python),
        ("packages", software.packages),
        ("arithmetic", partial(places.arithmetic, settings)),
        ("memory", partial(places.memory, here)),
        ("disk", partial(places.disk, settings)),
        ("ports", places.ports),
        ("gpu", partial(places.gpu, here)),
        ("vllm", software.vllm),
        ("prefect", partial(software.prefect, arguments.full)),
        ("registry", partial(places.registry, settings)),
        ("store", partial(places.store, settings)),
    ]
    if find_spec("torch") is None:
        looks = [one for one in looks if one[0] not in OF_RUNS]
    elif arguments.full:
        print("starting Prefect's server, which takes about half a minute", file=sys.stderr)
    with ThreadPoolExecutor(len(looks)) as pool:
        findings = list(pool.map(lambda one: _looked(*one), looks))
    failed = any(one.state == "fail" for one in findings)

    def show() -> None:
        for one in findings:
            print(f"{one.state:<5} {one.subject:<11} {plain(one.found)}")
            if one.remedy:
                print(f"{'':<17} → {plain(one.remedy)}")

    return Reply({"checks": [asdict(one) for one in findings]}, show, 3 if failed else 0)


def _looked(subject: str, look: Callable[[], Finding]) -> Finding:
    """A check that itself breaks is a finding: what is broken here is what was to be found out."""
    try:
        return look()
    except Exception as error:
        return Finding(subject, "fail", f"{type(error).__name__}: {error}", "see the message")
