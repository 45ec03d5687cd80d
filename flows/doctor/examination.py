"""Everything that is looked at, side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from flows.doctor import places, software, stack
from flows.doctor.finding import Finding
from flows.installation import is_light
from flows.planning.machine import machine
from flows.settings import Settings

OF_RUNS = ("arithmetic", "gpu", "vllm", "prefect")
"""What the light installation does not need and cannot look at."""


def look(settings: Settings, full: bool = False) -> list[Finding]:
    """A finding for each thing that a run rests on; `full` also starts Prefect's server."""
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
        ("prefect", partial(software.prefect, full)),
        ("registry", partial(places.registry, settings)),
        ("store", partial(places.store, settings)),
    ]
    if is_light():
        looks = [named_look for named_look in looks if named_look[0] not in OF_RUNS]
    looks += stack.looks(settings)
    with ThreadPoolExecutor(len(looks)) as pool:
        return list(pool.map(lambda named_look: _looked(*named_look), looks))


def _looked(subject: str, look: Callable[[], Finding]) -> Finding:
    """A check that itself breaks is a finding: what is broken here is what was to be found out."""
    try:
        return look()
    except Exception as error:
        return Finding(subject, "fail", f"{type(error).__name__}: {error}", "see the message")
