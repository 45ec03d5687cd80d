"""What fits and how fast, what is refused, and the change that is named: tried, and the cheapest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.commands.serving import plan as command
from flows.planning.machine import Machine
from flows.planning.serving.memory import adapter_bytes
from flows.planning.serving.plan import Asked, Promise, Served, plan
from flows.planning.serving.simulation import Load
from flows.planning.serving.steps import GPUS
from registry import Registry
from stages.model_shape import describe_base
from tests.flows.planning.serving.test_simulation import Fixed
from tests.flows.planning.serving.test_steps import TIMED
from tests.serving.populated_registry import PopulatedRegistry, kept_registry

SERVED = Served("pico", describe_base("pico:1"), 30_000_000)
ASKED = Asked("llama.cpp", Load(4, 100, 10, slots=4), Promise(40.0), 2048)
ADAPTER = adapter_bytes(SERVED.shape, 16)
PLENTY = 1 << 40


def test_an_adapter_of_rank_16_has_so_many_bytes() -> None:
    # per layer: q and o 256 + 256 each, k and v 256 + 128, gate, up and down 256 + 512; 2 layers, 2 bytes
    assert ADAPTER == 16 * 2 * (2 * 512 + 2 * 384 + 3 * 768) * 2


def test_a_rate_keeps_the_promise_and_a_higher_one_does_not() -> None:
    found = plan(SERVED, ASKED, Fixed(), PLENTY, None)
    assert found.promised is not None
    assert found.shortfalls == ()
    assert found.promised.at(found.promised.whole, 0.99) <= 40
    assert 0 < found.promised.rate < found.most.rate
    longer = plan(SERVED, replace(ASKED, promise=Promise(80.0)), Fixed(), PLENTY, None)
    assert longer.promised is not None
    assert longer.promised.rate > found.promised.rate
    first = plan(SERVED, replace(ASKED, promise=Promise(80.0, first=5.0)), Fixed(), PLENTY, None)
    assert first.promised is not None
    assert first.promised.rate < longer.promised.rate


def test_room_is_what_is_left_in_adapters() -> None:
    needed = plan(SERVED, ASKED, Fixed(), PLENTY, None).memory_bytes
    assert plan(SERVED, ASKED, Fixed(), needed + 3 * ADAPTER, None).room == 7
    assert plan(SERVED, ASKED, Fixed(), PLENTY, None).room == 1024, "the most that an engine may hold"


def test_tenants_follow_from_what_each_asks() -> None:
    found = plan(SERVED, replace(ASKED, each=0.001), Fixed(), PLENTY, None)
    assert found.tenants is not None
    assert found.promised is not None
    assert found.tenants == pytest.approx(found.promised.rate / 0.001, rel=0.5)
    few = plan(SERVED, replace(ASKED, each=0.001), Fixed(), found.memory_bytes, None)
    assert few.tenants == 4, "memory has no room for more"


@pytest.mark.parametrize(
    ("asked", "left", "said"),
    [
        (ASKED, -1, r"with --context-length 110 it needs"),
        (replace(ASKED, context_length=110), -1, r"with --slots 2 it needs"),
        (replace(ASKED, load=replace(ASKED.load, slots=1, prompt=2038)), -1, r"with --tenants 2 it needs"),
        (ASKED, -(1 << 40), r"no smaller setting is enough; choose a smaller file"),
    ],
)
def test_what_does_not_fit_names_the_cheapest_change(asked: Asked, left: int, said: str) -> None:
    needed = plan(SERVED, asked, Fixed(), PLENTY, None).memory_bytes
    (missing,) = plan(SERVED, asked, Fixed(), max(1, needed + left), None).shortfalls
    assert missing.startswith("the engine needs about")
    assert missing.rpartition(": ")[2].startswith(said.partition(" it needs")[0])


def test_one_request_that_is_too_slow_names_a_shorter_answer() -> None:
    found = plan(SERVED, replace(ASKED, promise=Promise(6.0)), Fixed(), PLENTY, None)
    assert found.promised is None
    (missing,) = found.shortfalls
    assert missing == (
        "a request that has the engine to itself takes 10 s, its first token 1 s: with --answer 5 it keeps "
        "the promise"
    )
    (missing,) = plan(SERVED, replace(ASKED, promise=Promise(0.5)), Fixed(), PLENTY, None).shortfalls
    assert missing.endswith("choose a smaller file, a faster machine, or a longer time")


def test_where_a_request_alone_just_keeps_the_promise_few_are_answered() -> None:
    found = plan(SERVED, replace(ASKED, promise=Promise(10.5)), Fixed(), PLENTY, None)
    assert found.shortfalls == ()
    assert found.promised is not None
    assert found.promised.rate < found.most.rate / 50


def test_too_high_a_rate_names_more_slots_or_more_machines() -> None:
    one_queue = replace(ASKED, rank=0, load=replace(ASKED.load, slots=1), promise=Promise(100.0))
    (missing,) = plan(SERVED, replace(one_queue, rate=0.15), Fixed(), PLENTY, None).shortfalls
    assert missing.endswith("of 0.15 requests/s are answered in time: with --slots 4 all are")
    (missing,) = plan(SERVED, replace(one_queue, rate=40.0), Fixed(), PLENTY, None).shortfalls
    assert missing.endswith("such machines would answer them")
    assert plan(SERVED, replace(one_queue, rate=0.01), Fixed(), PLENTY, None).shortfalls == ()


def test_a_gpu_has_its_own_memory() -> None:
    found = plan(SERVED, replace(ASKED, engine="vllm"), Fixed(mixes=True), 1, GPUS["L4"])
    assert (found.held, found.shortfalls) == (int(0.9 * (24 << 30)), ())


# --- the command ---


@pytest.fixture(scope="module")
def populated(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> PopulatedRegistry:
    return kept_registry(pytestconfig.rootpath, tmp_path_factory.mktemp("populated") / "home", 3)


@pytest.fixture
def ready(populated: PopulatedRegistry, monkeypatch: pytest.MonkeyPatch) -> PopulatedRegistry:
    quick = TIMED.model_copy(update={"rows": ((1, 0.01), (4, 0.02)), "prompt": ((32, 0.02), (512, 0.2))})
    quick = quick.model_copy(update={"row_context": 1e-6, "prompt_context": 1e-7})
    monkeypatch.setenv("TUNELINE_HOME", str(populated.home))
    monkeypatch.setattr(command, "machine", lambda _: Machine(8 << 30, 0, 2))
    monkeypatch.setattr(command, "llama_steps", lambda *_: quick)
    return populated


def test_the_command_says_what_an_artifact_and_a_file_carry(
    ready: PopulatedRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    with Registry.open(ready.home) as registry:
        file = registry.view(ready.gguf) / "model.gguf"
    for name in ("pico-base@1", str(file)):
        asked = ["plan", "serve", name, "--tenants", "8", "--answer", "16"]
        asked += ["--p99", "5", "--per-tenant", "0.1"]
        assert cli.main([*asked, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["at_most"]["requests_per_second"] > found["promised"]["requests_per_second"] > 0
        assert found["most_tenants"] > 0
        assert found["memory_free"] == 8 << 30
        assert cli.main(asked) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "requests/s, p99 within 5 s" in text
        assert "Times: steps of llama.cpp timed on this machine, 10 ms a token." in text


def test_the_command_refuses_what_is_too_slow(
    ready: PopulatedRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "serve", "pico-base@1", "--p99", "0.5"]) == 3
    assert "Not enough: a request that has the engine to itself takes" in capsys.readouterr().out


def test_vllm_is_reckoned_for_a_gpu(ready: PopulatedRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "serve", "pico:1", "--engine", "vllm", "--tenants", "4", "--p99", "5"]
    assert cli.main([*asked, "--gpu", "L4"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Times: by formula, from the data sheet of L4" in text
    assert "not run on such a GPU" in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["pico:1", "--engine", "vllm"], "--engine vllm is reckoned for a GPU: name it with --gpu"),
        (["pico:1"], "pico:1: llama.cpp serves a GGUF file"),
        (["absent.gguf"], "absent.gguf: no such file"),
        (["pico-base@1", "--engine", "vllm", "--gpu", "L4"], "is a GGUF file; for vllm"),
        (["pico-base@1", "--context-length", "100"], "expected at least the 640 tokens of --prompt"),
        (["nothing@1"], "nothing@1"),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: list[str], said: str, ready: PopulatedRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "serve", *given]) == 3
    assert said in capsys.readouterr().err


def test_an_adapter_is_not_what_an_engine_holds(
    ready: PopulatedRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "serve", ready.adapters[0].gguf]) == 3
    assert "is an adapter: name the base that it is served beside" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--slots", "0"], ["--p99", "-1"], ["--rank", "x"], ["--rate", "inf"]])
def test_numbers_have_to_be_such(option: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["plan", "serve", "x.gguf", *option])
    assert "expected a" in capsys.readouterr().err


def test_a_tuned_model_has_no_adapters_beside_it(
    ready: PopulatedRegistry, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["plan", "serve", ready.adapters[0].merged, "--json", "--tenants", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["room_for_adapters"], "0 B for 0 adapters" in found["memory_note"]) == (None, True)
