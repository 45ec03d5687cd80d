"""Give the system back what a stage has freed, so that its next part does not come on top of it."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Collect garbage and return the heap's free pages: glibc keeps them, up to hundreds of MB.

    Takes milliseconds; what is allocated next is zeroed again, so it is worth it between the parts of a
    stage and not between the steps of one. Without glibc it only collects.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
