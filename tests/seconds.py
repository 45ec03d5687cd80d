"""Time limits in tests, in seconds of the machine that they were written on.

`seconds(10)` is ten seconds there and as many more here as this machine is slower, measured once for a
session by what tests do most: start Python with its libraries, and multiply matrices. A limit is there to end
what hangs, so on a faster machine it stays as it was written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

FACTOR = "TUNELINE_TEST_SLOWNESS"
"""The session's factor, for its workers and whatever else they start; set it and nothing is measured."""
KEPT = Path(__file__).resolve().parents[1] / ".cache" / "speed.json"
KEPT_SECONDS = 120.0
"""So long another process of the same session may go by it; a machine may be busy later."""
START_SECONDS, PRODUCT_SECONDS = 0.5, 0.025
"""On the machine that the limits were written on; see `_PROBE`."""
MOST = 20.0
"""Above this something else is wrong, and limits of hours would hide it."""
_PROBE = """
import asyncio, httpx, json, pydantic, sqlalchemy, time
import numpy as np
square = np.ones((512, 512), dtype=np.float32)
def products():
    began = time.perf_counter()
    for _ in range(10):
        square @ square
    return time.perf_counter() - began
print(min(products() for _ in range(5)))
"""
"""On one core, so that it is the same on any number of them."""


def seconds(written: float) -> float:
    """`written` seconds of the machine that the tests were written on, as seconds of this one."""
    return written * slowness()


def slowness() -> float:
    """How many times slower than that machine this one is; at least 1, at most `MOST`."""
    if FACTOR not in os.environ:
        os.environ[FACTOR] = str(_kept() or _measured())
    return float(os.environ[FACTOR])


def factor(start: float, product: float) -> float:
    """From the seconds that a start of Python with its libraries and ten products took here."""
    return round(min(MOST, max(1.0, start / START_SECONDS, product / PRODUCT_SECONDS)), 2)


def _kept() -> float | None:
    """What was measured just now on a machine of as many cores."""
    try:
        found = json.loads(KEPT.read_text())
        fresh = 0 <= time.time() - found["at"] < KEPT_SECONDS and found["cores"] == os.cpu_count()
        return float(found["slowness"]) if fresh else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured() -> float:
    starts, products = zip(*(_probe() for _ in range(3)), strict=True)
    found = factor(sorted(starts)[1], min(products))
    words = {"slowness": found, "start": starts, "product": products, "cores": os.cpu_count()}
    KEPT.parent.mkdir(exist_ok=True)
    draft = KEPT.with_name(f".{KEPT.name}.{os.getpid()}")
    draft.write_text(json.dumps({**words, "at": time.time()}))
    draft.replace(KEPT)
    return found


def _probe() -> tuple[float, float]:
    """Seconds of a start without the products, and of the products."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, check=True)
    product = float(done.stdout)
    return time.perf_counter() - began - 5 * product, product
