"""What GPTQModel prints: to the log, and what only its messages tell."""

from __future__ import annotations

import io
import logging
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

log = logging.getLogger("tuneline.quantize")


@contextmanager
def quiet() -> Iterator[LogStream]:
    """Keep the library's banner, bars and messages out of stdout."""
    sink = LogStream()
    with redirect_stdout(sink):
        yield sink


class LogStream(io.TextIOBase):
    """A text stream that logs whole lines at debug level, without colours and progress bars."""

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=20)
        self.rounded: set[str] = set()
        self._open = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._open = (self._open + text).replace("\r", "\n").split("\n")
        for line in lines:
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip()
            if plain and not re.search("[█░]", plain):
                self.tail.append(plain)
                # the only trace of a module that GPTQModel rounds to nearest after a NaN loss
                self.rounded.update(re.findall("mock quantization retry for `([^`]+)`", plain))
                log.debug("gptqmodel: %s", plain)
        return len(text)
