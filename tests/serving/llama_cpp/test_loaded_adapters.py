"""Which adapters are loaded: under names that never change, with an effect, in bounded room."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import httpx
import llama_cpp as low
import numpy as np
import pytest
from gguf import GGUFReader

from serving.errors import AdapterRefused, NotServable, Overloaded, UnknownModel
from serving.llama_cpp import scheduler
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher
from stages.backends.gguf.adapter import convert_adapter
from tests.seconds import seconds
from tests.serving.canaries import QUESTIONS, Canary, Family
from tests.serving.llama_cpp.asking import BASE, asked, load, name_of, say
from tests.stages.backends.merge.lora_models import save_adapter


def _in_the_name_of(batcher: Batcher, name: str, canary: Canary) -> None:
    batcher.load(name, name, canary.path / "model.gguf").result(seconds(30))


def test_a_name_stands_for_the_same_bytes_for_ever(batcher: Batcher, family: Family) -> None:
    """vLLM 42125 and 30931: another adapter was loaded under a name that caches knew."""
    first, second, _ = family.canaries
    _in_the_name_of(batcher, "x", first)
    batcher.unload("x").result(seconds(10))
    with pytest.raises(AdapterRefused, match="is not the file that x stood for before"):
        _in_the_name_of(batcher, "x", second)
    _in_the_name_of(batcher, "x", first)
    with pytest.raises(AdapterRefused, match="stands for one artifact only"):
        batcher.load("x", "other", second.path / "model.gguf").result(seconds(30))


def test_a_name_used_again_with_its_cache_would_be_noticed(
    batcher: Batcher, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = family.canaries
    monkeypatch.setattr(batcher.loaded, "_require_same_bytes", lambda *_: "")
    monkeypatch.setattr(scheduler, "cache_key", lambda adapter, answer: (adapter.name, answer.salt))

    async def work(http: httpx.AsyncClient) -> list[str]:
        said = []
        for canary in (first, second):
            await asyncio.to_thread(_in_the_name_of, batcher, "x", canary)
            said += [await say(http, "x", question, cache_salt="t") for question in QUESTIONS]
            await asyncio.wrap_future(batcher.unload("x"))
        return said

    expected = [first.answer] * len(QUESTIONS) + [second.answer] * len(QUESTIONS)
    assert asked(batcher, work) != expected, "the check found nothing"


def test_an_adapter_without_effect_is_refused(
    batcher: Batcher, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM 34186: an adapter loaded, and the base answered in its name."""
    monkeypatch.setattr(batcher.model, "use", lambda adapter: None)
    with pytest.raises(AdapterRefused, match="has no effect here"):
        load(batcher, family.canaries[0])
    assert [one.name for one in batcher.loaded] == [BASE]


def test_files_that_are_no_adapter_for_this_base(batcher: Batcher, family: Family, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes((family.canaries[0].path / "model.gguf").read_bytes()[:5000])
    for file in (tmp_path / "cut.gguf", family.gguf, tmp_path / "nowhere.gguf"):
        with pytest.raises(NotServable):
            batcher.load("x", "x", file).result(seconds(30))
    load(batcher, family.canaries[0])


def test_unloading_waits_for_what_is_under_way(batcher: Batcher, family: Family) -> None:
    canary = family.canaries[0]
    load(batcher, canary)

    async def work(http: httpx.AsyncClient) -> None:
        answers = [asyncio.create_task(say(http, name_of(canary), q)) for q in QUESTIONS * 3]
        while not sum(map(sum, batcher.queued().values())):
            await asyncio.sleep(0)
        gone = asyncio.wrap_future(batcher.unload(name_of(canary)))
        refused = await http.post(
            "/v1/chat/completions",
            json={"model": name_of(canary), "messages": [{"role": "user", "content": "Hi"}]},
        )
        assert refused.status_code == 404, "never the base's answer"
        await gone
        said = await asyncio.gather(*answers, return_exceptions=True)
        late = [one for one in said if isinstance(one, AssertionError)]  # came after the unloading: 404
        assert set(map(str, said)) - set(map(str, late)) == {canary.answer}
        assert all("not served here" in str(one) for one in late)

    asked(batcher, work)
    with pytest.raises(UnknownModel):
        batcher.unload(name_of(canary))


def test_a_hosted_adapter_is_the_same_as_the_models_own(
    model: LlamaModel, family: Family, tmp_path: Path
) -> None:
    """Also one with more modules than those before it: llama.cpp ends a process whose graphs lack room."""

    def said() -> np.ndarray:
        model.forget(0)
        model.decode([(token, token, 0, token == 9) for token in range(10)])
        return model.logits(9)

    save_adapter(family.base, tmp_path / "peft")
    convert_adapter(tmp_path / "peft", family.base, "F16", "wide", tmp_path)
    for file in (family.canaries[0].path / "model.gguf", tmp_path / "model.gguf"):
        hosted = model.load_adapter(file)
        assert model._host is not None
        assert 2 * model._host.room >= len(GGUFReader(file).tensors)
        model.use(hosted)
        found = said()
        own = low.llama_adapter_lora_init(model._model, str(file).encode())
        model.use(own)
        assert np.array_equal(said(), found)
        model.use(None)
        assert not np.array_equal(said(), found)
        model.free_adapter(own)


def test_an_engine_outlives_an_adapter_without_room(
    batcher: Batcher, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nowhere:
        nowhere.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(NotServable, match="could not make room for this adapter: FileNotFoundError"):
            load(batcher, family.canaries[0])
    assert batcher.alive
    load(batcher, family.canaries[0])


def test_slots_are_bounded_and_a_load_is_done_once(batcher: Batcher, family: Family) -> None:
    first, second, third = family.canaries
    futures = [batcher.load(name_of(first), first.digest, first.path / "model.gguf") for _ in range(8)]
    assert len({future.result(seconds(30)).serial for future in futures}) == 1
    load(batcher, second)
    with pytest.raises(Overloaded, match="2 adapters are loaded"):
        load(batcher, third)
