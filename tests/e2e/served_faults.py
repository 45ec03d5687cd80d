"""Five ways in which an engine no longer serves what was evaluated, each planted where it would happen."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFReader

from serving.engine.answer_check import ExpectedAnswer
from serving.engine.settings import EngineSettings
from serving.gateway.config import EngineSection
from serving.llama_cpp.engine import LlamaCppEngine
from serving.process.process import Launch

Change = Callable[[Path, Path], None]
"""Writes a changed copy of the first file to the second path."""

PENALTY = """
from dataclasses import replace
from serving.llama_cpp import model, server
plain = model.LlamaModel.sampler
model.LlamaModel.sampler = lambda self, how, *more: plain(self, replace(how, repetition_penalty=2.0), *more)
server.main()
"""


def other_scale(adapter: Path, out: Path) -> None:
    """Its alpha says a third of what it was trained with."""
    out.write_bytes(adapter.read_bytes())
    alpha = GGUFReader(out, "r+").fields["adapter.lora.alpha"]
    alpha.parts[alpha.data[0]][0] /= 3


def stale(adapter: Path, out: Path) -> None:
    """Another training's: the second factor of every matrix is drawn anew, as large as it was."""
    out.write_bytes(adapter.read_bytes())
    draw = np.random.default_rng(0)
    for tensor in GGUFReader(out, "r+").tensors:
        if tensor.name.endswith(".lora_b"):
            tensor.data[:] = draw.permutation(tensor.data.flatten()).reshape(tensor.data.shape)


def other_template(base: Path, out: Path) -> None:
    """The chat template writes other marks around each message."""
    raw, mark = base.read_bytes(), b"<|im_start|>"
    begin = raw.index(b"{% for message in messages %}")
    end = raw.index(b"{% endif %}", raw.rindex(b"add_generation_prompt"))
    assert raw[begin:end].count(mark) >= 2
    out.write_bytes(raw[:begin] + raw[begin:end].replace(mark, b"### Message:") + raw[end:])


def requantized(base: Path, out: Path) -> None:
    """Q8_0 became Q2_K, all of it."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K, True
    parameters.pure = True
    failed = llama_cpp.llama_model_quantize(bytes(base), bytes(out), ctypes.byref(parameters))
    assert failed == 0


class Faulty(LlamaCppEngine):
    """llama.cpp with one of the faults; all else is the real one's."""

    adapter_change: Change | None = None
    penalty = False

    async def load_adapter(self, digest: str, path: Path) -> str:
        if self.adapter_change is not None:
            changed = self._folder / f"{digest[:8]}.gguf"
            self.adapter_change(path / "model.gguf", changed)
            path = changed
        return await super().load_adapter(digest, path)

    @contextlib.contextmanager
    def _prepare(self) -> Iterator[Launch]:
        with super()._prepare() as launch:
            if self.penalty:
                assert launch.argv[:3] == (sys.executable, "-m", "serving.llama_cpp.server")
                launch = Launch((sys.executable, "-c", PENALTY, *launch.argv[3:]), launch.env, launch.fds)
            yield launch


OF_ADAPTERS: dict[str, Change] = {"adapter scale": other_scale, "stale adapter": stale}
OF_BASES: dict[str, Change] = {"chat template": other_template, "requantized base": requantized}
SAMPLING = "sampling default"
FAULTS = (*OF_ADAPTERS, *OF_BASES, SAMPLING)


def making(fault: str | None, folder: Path) -> Callable[..., LlamaCppEngine]:
    """Makes engines as `serving.gateway.replica.engine_of` does, with the fault.

    They are not asked anything at their start, which would refuse some of the faults: these come later.
    """

    def make(
        section: EngineSection, artifact_id: str, path: Path, log: Path, _: Sequence[ExpectedAnswer]
    ) -> LlamaCppEngine:
        file = path / "model.gguf"
        if fault in OF_BASES:
            OF_BASES[fault](file, folder / "base.gguf")
            file = folder / "base.gguf"
        fields = section.model_dump(include=set(EngineSettings.__dataclass_fields__))
        engine = Faulty(artifact_id, file, EngineSettings(**fields), log)
        engine.adapter_change = OF_ADAPTERS.get(fault or "")
        engine.penalty = fault == SAMPLING
        return engine

    return make
