"""Time decoder blocks and a head of a model's own widths as evaluation and training compute them; `python -m`
prints the result, with `product` also the speed of both types in such a layer, in one process.

On a CPU the products are the smaller part of a small model's time: norms, rotations, casts and copies between
them and what each call costs, however few tokens it has, take most. So a whole block is timed, a Llama's,
with all threads, on more weights than a cache holds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from serving.timing import TimeBox
from stages.backends import arithmetic

LAYERS, WEIGHTS = 8, 96_000_000
"""At most so many blocks, which hold about so many bytes: more than a core's share of a cache."""
RANK = 16
READ_ROWS, TRAINED_ROWS = 16, 8
READ, TRAINED, HEAD = (1, 24), (4, 32), (16, 128)
"""Tokens a row of a short and a longer pass, and positions that the head is asked for."""
PARTS = 6
SECONDS = 1.5
"""Of the time box for all of them, without torch's import; two passes of each are timed in any case."""


class Linear(nn.Module):
    """Frozen weights, with `rank` also an adapter in float32, put on as PEFT does, in training as
    `stages.backends.train.fused_lora` does."""

    def __init__(self, inputs: int, outputs: int, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs).to(dtype) * 0.02, requires_grad=False)
        self.a = nn.Parameter(torch.randn(rank, inputs) * 0.02) if rank else None
        self.b = nn.Parameter(torch.zeros(outputs, rank)) if rank else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.linear(x, self.weight)
        if self.a is None or self.b is None:
            return y
        if torch.is_grad_enabled():
            low = functional.linear(x, self.a).flatten(0, -2)
            return torch.addmm(y.flatten(0, -2), low, self.b.t(), alpha=2.0).view_as(y)
        update = functional.linear(functional.linear(x.to(self.a.dtype), self.a), self.b)
        return (y + update * 2.0).to(y.dtype)


class Norm(nn.Module):
    """Root mean square in float32, as a Llama's."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * wide.to(x.dtype)


class Block(nn.Module):
    """Grouped-query attention with rotary positions, and a gated MLP; `eager`: in plain products."""

    def __init__(self, widths: Mapping[str, int], rank: int, dtype: torch.dtype, norms: torch.dtype) -> None:
        super().__init__()
        hidden, inner, size = widths["hidden"], widths["intermediate"], widths["head_size"]
        self.heads, self.kv_heads, self.size = widths["heads"], widths["kv_heads"], size
        queries, keys = self.heads * size, self.kv_heads * size
        shapes = {"q": (hidden, queries), "k": (hidden, keys), "v": (hidden, keys), "o": (queries, hidden)}
        shapes |= {"gate": (hidden, inner), "up": (hidden, inner), "down": (inner, hidden)}
        self.linear = nn.ModuleDict({name: Linear(*shape, rank, dtype) for name, shape in shapes.items()})
        self.before, self.between = Norm(hidden, norms), Norm(hidden, norms)
        self.eager = False

    def forward(self, x: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """x: (rows, tokens, hidden); kept: keys of earlier tokens, (rows, kv_heads, tokens, head_size)."""
        read = self.before(x)
        q, k, v = (
            self.linear[name](read).unflatten(-1, (-1, self.size)).transpose(1, 2) for name in ("q", "k", "v")
        )
        angles = torch.ones(x.shape[1], self.size, dtype=x.dtype)
        q, k = (part * angles + self._rotated(part) * angles for part in (q, k))
        if kept is not None:
            k, v = torch.cat([kept, k.to(kept.dtype)], dim=2), torch.cat([kept, v], dim=2)
        times = self.heads // self.kv_heads
        k, v = (part.repeat_interleave(times, dim=1) for part in (k, v))
        answer = self._attend(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.linear["o"](answer)
        read = self.between(x)
        inner = functional.silu(self.linear["gate"](read)) * self.linear["up"](read)
        down: torch.Tensor = x + self.linear["down"](inner)
        return down

    def _rotated(self, part: torch.Tensor) -> torch.Tensor:
        half = self.size // 2
        return torch.cat([-part[..., half:], part[..., :half]], dim=-1)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        if not self.eager:
            mask = seen.expand(q.shape[0], 1, *seen.shape)
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        scores = q @ k.transpose(2, 3) * self.size**-0.5
        scores = scores + torch.zeros_like(seen, dtype=scores.dtype).masked_fill(~seen, -1e30)
        return functional.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v


def measure(widths: Mapping[str, int], dtype: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Seconds that do not grow with the tokens, and seconds for each: of a pass of one block (`read`, with
    an adapter `adapted`, forward and back and the optimizer's step `trained`), and of one head (`answered`:
    the likeliest token; `compared`: all log-probabilities; `learned`: a loss and its gradient). `disturbed`:
    others had the cores."""
    torch.manual_seed(0)
    type_, fitter = getattr(torch, dtype), Fitter(seconds)
    parts = {
        "read": _reading(fitter, widths, 0, type_),
        "adapted": _reading(fitter, widths, RANK, type_),
        "trained": _training(fitter, widths, type_),
        **_head(fitter, widths, type_),
    }
    return {**parts, "disturbed": fitter.disturbed}


def _blocks(widths: Mapping[str, int], rank: int, dtype: torch.dtype, norms: torch.dtype) -> list[Block]:
    first = Block(widths, rank, dtype, norms)
    held = sum(linear.weight.nbytes for linear in first.linear.values())
    count = max(1, min(LAYERS, widths["layers"], WEIGHTS // held))
    return [first, *(Block(widths, rank, dtype, norms) for _ in range(count - 1))]


def _reading(fitter: Fitter, widths: Mapping[str, int], rank: int, dtype: torch.dtype) -> list[float]:
    blocks = _blocks(widths, rank, dtype, dtype)
    kept = torch.randn(READ_ROWS, widths["kv_heads"], READ[1], widths["head_size"]).to(dtype)

    def passing(tokens: int) -> Callable[[], object]:
        x = torch.randn(READ_ROWS, tokens, widths["hidden"]).to(dtype)
        return lambda: _through(blocks, x, kept)

    with torch.inference_mode():
        return fitter.fit(passing, READ, READ_ROWS, len(blocks))


def _through(blocks: list[Block], x: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    for block in blocks:
        x = block(x, kept)
    return x


def _training(fitter: Fitter, widths: Mapping[str, int], dtype: torch.dtype) -> list[float]:
    """Residuals, norms and adapters in float32, as prepare_model_for_kbit_training and TRL have them."""
    blocks = _blocks(widths, RANK, dtype, torch.float32)
    for block in blocks:
        block.eager = True
    moved = [weight for block in blocks for weight in block.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(moved, lr=1e-6, fused=True)

    def passing(tokens: int) -> Callable[[], object]:
        x = torch.randn(TRAINED_ROWS, tokens, widths["hidden"], requires_grad=True)

        def step() -> None:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = _through(blocks, x, None).float().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(moved, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            x.grad = None

        return step

    return fitter.fit(passing, TRAINED, TRAINED_ROWS, len(blocks))


def _head(fitter: Fitter, widths: Mapping[str, int], dtype: torch.dtype) -> dict[str, list[float]]:
    head = Linear(widths["hidden"], widths["vocabulary"], 0, dtype)

    def answered(positions: int) -> Callable[[], object]:
        x = torch.randn(positions, widths["hidden"]).to(dtype)

        def likeliest() -> object:
            logits = head(x).float()
            return torch.isfinite(logits).all(), logits.argmax(dim=-1)

        return likeliest

    def compared(positions: int) -> Callable[[], object]:
        x = torch.randn(positions, widths["hidden"]).to(dtype)

        def all_() -> object:
            logits = head(x).float()
            return torch.isfinite(logits).all(), logits.argmax(dim=-1), torch.log_softmax(logits, dim=-1)

        return all_

    def learned(positions: int) -> Callable[[], object]:
        x = torch.randn(positions, widths["hidden"], requires_grad=True)
        labels = torch.arange(positions) % widths["vocabulary"]

        def step() -> None:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                logits = head(x)
            functional.cross_entropy(logits.float(), labels).backward()
            x.grad = None

        return step

    with torch.inference_mode():
        read = {
            "answered": fitter.fit(answered, HEAD),
            "compared": fitter.fit(compared, HEAD),
        }
    return {**read, "learned": fitter.fit(learned, HEAD)}


class Fitter:
    """Times passes of two sizes within a time box; `disturbed`: others had the cores meanwhile."""

    def __init__(self, seconds: float) -> None:
        self._box = TimeBox(seconds, 2 * PARTS)
        self.disturbed = False

    def fit(
        self,
        passing: Callable[[int], Callable[[], object]],
        sizes: tuple[int, int],
        rows: int = 1,
        blocks: int = 1,
    ) -> list[float]:
        """Of a block: seconds for a pass, whatever it reads, and for each token."""
        short, longer = (self._seconds(passing(size)) / blocks for size in sizes)
        each = max(0.0, (longer - short) / (rows * (sizes[1] - sizes[0])))
        return [max(0.0, short - each * rows * sizes[0]), each]

    def _seconds(self, work: Callable[[], object]) -> float:
        timing = self._box.time(work)
        self.disturbed |= timing.disturbed
        return timing.seconds


if __name__ == "__main__":
    asked: dict[str, Any] = json.loads(sys.argv[1])
    found: dict[str, Any] = {}
    if "product" in asked:
        speed = arithmetic.measure(*asked["product"])
        found["speed"], asked["dtype"] = speed.model_dump(), speed.compute_dtype
    if found.get("speed", {}).get("device") != "cuda":
        found[asked["dtype"]] = measure(asked["widths"], asked["dtype"])
    print(json.dumps(found))
