"""Standard output and standard error, whose reader may go away: `tuneline … | head -1`."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import IO, TextIO


@contextlib.contextmanager
def read_or_not(stream: TextIO) -> Iterator[None]:
    """A reader of `stream` that went away changes nothing about how the command ends."""
    try:
        yield
        stream.flush()
    except (BrokenPipeError, SystemExit):  # rich turns the one into the other
        silence(stream)


def remark(line: str) -> None:
    """A line on standard error about what goes on; the work goes on too where nobody reads it."""
    with read_or_not(sys.stderr):
        print(line, file=sys.stderr, flush=True)


def silence(stream: IO[str]) -> None:
    """What is still written to `stream` goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def is_unread(stream: TextIO) -> bool:
    """Whether `stream` is a pipe whose reader went away."""
    try:
        descriptor = stream.fileno()
    except (io.UnsupportedOperation, ValueError):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
