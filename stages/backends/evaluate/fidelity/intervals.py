"""95 % intervals for figures of tokens that come in chats: a bootstrap over the chats.

Tokens of one chat hang together, so a chat is drawn whole (Field and Welsh 2007, JRSS B 69:369, the cluster
bootstrap); the seed is fixed, so that equal figures give equal intervals.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from registry.evaluation_figures import Metric
from stages.statistics.intervals import wilson

Figures = npt.NDArray[np.float64]
REPLICATES = 1000


class ByChat:
    """`chat[i]`: which of `chats` chats token i belongs to; every chat has at least one token."""

    def __init__(self, chat: npt.NDArray[np.int64], chats: int) -> None:
        self.chat, self.chats = chat, chats
        draws = np.random.default_rng(0).integers(0, chats, size=(REPLICATES, chats))
        self._weights = np.stack([np.bincount(draw, minlength=chats) for draw in draws]).astype(np.float64)

    def mean(self, values: Figures) -> Metric:
        """Mean over all tokens, each chat drawn with all of its tokens."""
        sums, counts = self._sums(values), self._sums(np.ones_like(values))
        return self._summary(values.mean(), (self._weights @ sums) / (self._weights @ counts))

    def share(self, values: Figures) -> Metric:
        """Mean of zeros and ones. Where all are equal, resampling shows no doubt: Wilson's interval of as
        many chats takes its place, which is the cautious end (as if each chat were one token)."""
        if values.min() < values.max():
            return self.mean(values)
        low, high = wilson(float(values[0]) * self.chats, self.chats)
        return {"value": float(values[0]), "low": low, "high": high, "n": self.chats, "interval": "wilson"}

    def quantile(self, values: Figures, q: float) -> Metric:
        """The smallest value that a share `q` of the tokens does not exceed."""
        order = np.argsort(values)
        ordered, chat = values[order], self.chat[order]
        replicates = [ordered[_reaching(row[chat], q)] for row in self._weights]
        return self._summary(ordered[_reaching(np.ones(len(values)), q)], np.array(replicates))

    def ratio(self, log_differences: Figures) -> Metric:
        """exp of the mean: how many times larger a perplexity is."""
        mean = self.mean(log_differences)
        value, low, high = (float(np.exp(x)) for x in (mean["value"], mean["low"], mean["high"]))
        return {"value": value, "low": low, "high": high, "n": mean["n"], "interval": mean["interval"]}

    def _sums(self, values: Figures) -> Figures:
        return np.bincount(self.chat, values, minlength=self.chats).astype(np.float64)

    def _summary(self, value: float, replicates: Figures) -> Metric:
        low, high = np.quantile(replicates, [0.025, 0.975])
        return {
            "value": float(value),
            "low": float(min(low, value)),
            "high": float(max(high, value)),
            "n": self.chats,
            "interval": "bootstrap",
        }


def _reaching(weights: Figures, q: float) -> int:
    total = np.cumsum(weights)
    return int(np.searchsorted(total, q * total[-1] - 1e-9))
