"""From tokens to the text that a client gets: whole characters, cut at a stop sequence."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from serving.openai_api.pieces import overlap


class Text:
    """Takes the tokens' bytes and gives the text that is certain: no half character or stop sequence."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = stops
        self._held = ""
        self.stopped = False

    def add(self, piece: bytes) -> str:
        """What may be sent after `piece`; `stopped` is set when a stop sequence has come."""
        return self._send(self._decoder.decode(piece))

    def end(self) -> str:
        """What was held back, once there will be no more."""
        rest = self._send(self._decoder.decode(b"", final=True))
        rest, self._held = rest + self._held, ""
        return rest

    def _send(self, new: str) -> str:
        if self.stopped:
            return ""
        self._held += new
        stops = [index for stop in self._stops if (index := self._held.find(stop)) >= 0]
        if stops:
            text, self._held, self.stopped = self._held[: min(stops)], "", True
            return text
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text
