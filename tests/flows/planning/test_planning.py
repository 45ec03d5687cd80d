"""Times: from earlier runs on this machine, else from its measured speed, in proportion to both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows import recipe as recipes
from flows.planning import clock as clocks
from flows.planning import rates
from flows.planning.amounts import training_amounts
from flows.planning.clock import Clock, clock_here, said_of_times
from flows.planning.estimate import Machine, StageEstimate, describe_base, estimate
from flows.planning.rates import MEASURED, PUBLISHED, ComputeRates, rates_here
from flows.planning.rows import row_figures
from flows.planning.timed import Fit, PassTimes
from flows.run import arithmetic
from flows.settings import Settings
from registry import Registry, processes
from registry.artifacts import QuantSpec
from stages import work
from stages.arithmetic import MachineSpeed, ProductRates
from stages.errors import StageError
from tests.flows.lineages import base_reference, publish
from tests.seconds import seconds

LAPTOP = Machine(memory_available=16_000_000_000, disk_free=10**12, cpu_count=2)
PICO = describe_base("pico:0")
ROOT = Path(__file__).parents[3]


def products(rate: float) -> ProductRates:
    return ProductRates(forward=rate, grad_input=rate, grad_weight=rate)


def of_machine(float32: float, bfloat16: float, disk: float = 1e9, cores: int = 2) -> ComputeRates:
    auto: Any = "bfloat16" if bfloat16 > float32 else "float32"
    return ComputeRates(products(float32), products(bfloat16), auto, cores, disk, basis=MEASURED)


def times(clock: Clock, name: str = "pico-smoke", *overrides: str) -> dict[str, StageEstimate]:
    recipe = recipes.load(name, overrides)
    return {one.stage: one for one in estimate(recipe, describe_base(recipe.base.source), LAPTOP, clock)}


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_times_are_in_proportion_to_the_machine(factor: float) -> None:
    one = times(Clock(of_machine(100e9, 400e9)), "demo")
    other = times(Clock(of_machine(100e9 * factor, 400e9 * factor, 1e9 * factor)), "demo")
    for name, stage in one.items():
        assert stage.seconds is not None
        assert other[name].seconds == pytest.approx(stage.seconds / factor), name
        assert stage.basis == MEASURED


def test_a_machine_without_bfloat16_is_planned_in_float32() -> None:
    old, new = of_machine(60e9, 2e9), of_machine(60e9, 600e9)
    slow, fast = times(Clock(old), "demo")["train adapter"], times(Clock(new), "demo")["train adapter"]
    forced = times(Clock(old), "demo", "train.nf4.compute_dtype=bfloat16")["train adapter"]
    assert slow.seconds is not None
    assert fast.seconds is not None
    assert forced.seconds is not None
    assert fast.seconds < slow.seconds < 2 * fast.seconds
    assert forced.seconds > 10 * slow.seconds


def test_more_cores_and_tokens_count() -> None:
    one = of_machine(100e9, 400e9, cores=1)
    few, many = (work.training(PICO, tokens, False) for tokens in (1e5, 1e6))
    start = one.seconds(work.training(PICO, 0, False), "float32")
    assert one.seconds(many, "float32") - start == pytest.approx(10 * (one.seconds(few, "float32") - start))
    four = replace(one, cores=4)
    assert four.seconds(many, "float32") - start == pytest.approx((one.seconds(many, "float32") - start) / 4)
    again = work.training(PICO, 1e6, True)
    # two layers of 3 · 256 · 512 in the MLP, 2 · 256 · 256 and 2 · 256 · 128 in attention; the head only once
    assert again.forward - many.forward == 2 * 2 * (393_216 + 131_072 + 65_536) * 1e6
    assert again.backward == many.backward


def trained(registry: Registry, took: float, tokens: float = 4175, **config: Any) -> None:
    """An adapter as `train` records it, made on this machine in `took` seconds."""
    base = publish(
        registry, "base", "resolve", {"config.json": b"{}"}, base=base_reference(),
        quant=QuantSpec(method="none"), metrics={"parameters": PICO.parameters},
        config={"source": "pico:0"},
    )  # fmt: skip
    nf4 = {"compute_dtype": "float32", "double_quant": True, "quant_type": "nf4"}
    publish(
        registry, "adapter", "train", {"adapter_model.safetensors": f"{took} {tokens} {config}".encode()},
        (("adapter", base),), base=base_reference(), quant=QuantSpec(method="bnb"),
        config={"gradient_checkpointing": False, "nf4": nf4, **config}, metrics={"tokens": tokens},
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose executions are recorded as a flow does; rates and cache are the test's own."""
    from tests.flows import lineages

    monkeypatch.setattr(lineages, "USE", replace(lineages.USE, machine=arithmetic.this_machine()))
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(clocks, "rates_here", lambda *_: of_machine(100e9, 5e9))
    monkeypatch.setattr("flows.planning.machine._imports", lambda *_: 592_000_000)
    return tmp_path / "home"


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    from tests.flows import lineages

    def set_(value: float) -> None:
        monkeypatch.setattr(lineages, "USE", replace(lineages.USE, seconds=value))

    return set_


def record(home: Path, took: Callable[[float], None], *runs: float, **more: Any) -> None:
    with Registry.open(home) as registry:
        for value in runs:
            took(value)
            trained(registry, value, **more)


def training_time(home: Path) -> StageEstimate:
    clock = clock_here(PICO, Settings())
    return times(clock, "pico-smoke", "train.max_steps=8", "train.nf4.compute_dtype=float32")["train adapter"]


_ROWS = row_figures(recipes.load("pico-smoke").prepare)
assert _ROWS is not None
TOKENS = 8 * 8 * _ROWS.length
"""What `training_time` is asked for: steps × rows × mean length."""


def test_earlier_runs_here_go_before_the_measured_speed(home: Path, took: Callable[[float], None]) -> None:
    assert training_time(home).basis == MEASURED
    record(home, took, 100.0, 300.0, 200.0, tokens=TOKENS)
    found = training_time(home)
    assert found.seconds == pytest.approx(200, rel=1e-6)
    assert found.basis == "from 3 earlier runs here"


def test_an_earlier_run_of_other_length_is_scaled(home: Path, took: Callable[[float], None]) -> None:
    recipe = recipes.load("pico-smoke", ["train.max_steps=8"])
    amounts, by_speed = training_amounts(recipe, _ROWS), of_machine(100e9, 5e9)
    assert amounts is not None
    asked, made = (
        by_speed.seconds(one.work(PICO, False), "float32")
        for one in (amounts, amounts.with_tokens(2 * TOKENS))
    )
    ratio = asked / made
    record(home, took, 100.0, tokens=2 * TOKENS)
    found = training_time(home)
    assert found.seconds == pytest.approx(100 * ratio)
    assert found.basis == "from 1 earlier run here"


def test_the_latest_runs_count(home: Path, took: Callable[[float], None]) -> None:
    record(home, took, *[1000.0 + n for n in range(5)], *[50.0 + n for n in range(5)], tokens=TOKENS)
    found = training_time(home)
    assert found.seconds == pytest.approx(52, rel=1e-6)
    assert found.basis == "from 5 earlier runs here"


@pytest.mark.parametrize(
    "other",
    [
        {"nf4": {"compute_dtype": "bfloat16"}},
        {"tokens": 10**9},
        {"nf4": "of another version"},
    ],
    ids=["another arithmetic", "far more work", "recorded otherwise"],
)
def test_what_is_not_comparable_says_nothing(
    other: dict[str, Any], home: Path, took: Callable[[float], None]
) -> None:
    record(home, took, 100.0, **{"tokens": TOKENS, **other})
    assert training_time(home).basis == MEASURED


def test_a_registry_of_another_machine_is_not_this_ones(
    home: Path, took: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home, took, 100.0, tokens=TOKENS)
    with monkeypatch.context() as patch:  # the same disk in a machine of that name, with another processor
        patch.setattr(arithmetic, "identity", lambda: ("f" * 64, "another processor"))
        assert training_time(home).basis == MEASURED
    with monkeypatch.context() as patch:  # a like machine of another name
        patch.setattr(processes.socket, "gethostname", lambda: "elsewhere")
        assert training_time(home).basis == MEASURED
    assert training_time(home).basis == "from 1 earlier run here"


def test_runs_recorded_without_a_machine_are_nobodys(
    home: Path, took: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.flows import lineages

    monkeypatch.setattr(lineages, "USE", replace(lineages.USE, machine=""))
    record(home, took, 100.0, tokens=TOKENS)
    assert training_time(home).basis == MEASURED


def test_planning_makes_no_registry_and_does_without_one_that_is_away(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training_time(home).basis == MEASURED
    assert not home.exists()
    monkeypatch.setenv("TUNELINE_DATABASE_URL", "postgresql://someone@127.0.0.1:1/none")
    assert training_time(home).basis == MEASURED


# --- the measurement ---


def speed(device: Any = "cpu", float32: float = 50e9, bfloat16: float = 2e9) -> MachineSpeed:
    return MachineSpeed(
        identity="0" * 64, processor="x", device=device, threads=2, product=(1, 1, 1),
        float32=products(float32), bfloat16=products(bfloat16), native_bfloat16=bfloat16 > float32,
    )  # fmt: skip


def test_rates_are_those_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(rates, "time_first", lambda *_: None)
    monkeypatch.setattr(rates, "measured_speed", lambda *_: speed())
    monkeypatch.setattr(rates, "pass_times", lambda *_: {})
    found = rates_here(PICO, Settings())
    assert (found.float32.forward, found.bfloat16.grad_input, found.auto) == (50e9, 2e9, "float32")
    assert (found.basis, found.gpu_basis) == (MEASURED, PUBLISHED)
    assert 1e6 < found.disk < 1e12
    monkeypatch.setattr(rates, "_through", lambda _: pytest.fail("the disk was measured again"))
    assert rates_here(PICO, Settings()).disk == found.disk

    monkeypatch.setattr(rates, "measured_speed", lambda *_: speed("cuda", 10e12, 250e12))
    on_gpu = rates_here(PICO, Settings())
    assert (on_gpu.gpu, on_gpu.gpu_basis, on_gpu.basis) == (50e12, MEASURED, PUBLISHED)


def test_without_torch_the_usual_figures_say_that_they_are_none_of_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> MachineSpeed:
        raise StageError("no torch")

    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path))
    monkeypatch.setattr(rates, "time_first", lambda *_: None)
    monkeypatch.setattr(rates, "measured_speed", fails)
    assert rates_here(PICO, Settings()).basis == PUBLISHED


def test_what_times_rest_on_is_said_once_for_each_thing() -> None:
    bases = [("train adapter", "from 2 earlier runs here"), ("merge", MEASURED), ("evaluate", MEASURED)]
    assert said_of_times([*bases, ("prepare data", "")], of_machine(60e9, 2e9)) == [
        "Times of train adapter: from 2 earlier runs here.",
        "Times of merge, evaluate: measured on this machine (2 cores, each 60 GFLOP/s in float32 and 2 in "
        "bfloat16; disk 1.00 GB/s).",
    ]
    assert said_of_times([*bases[:1], ("merge", bases[0][1])], of_machine(60e9, 2e9)) == [
        "All times: from 2 earlier runs here."
    ]
    part = Fit(once=1, each=1)
    parts = set(PassTimes.model_fields) - {"disturbed"}
    timed = PassTimes(**dict.fromkeys(parts, part), disturbed=True)
    disturbed = replace(of_machine(60e9, 2e9), timed={"float32": timed})
    assert said_of_times(bases, disturbed)[-1] == clocks.DISTURBED
    assert clocks.DISTURBED not in said_of_times(bases[:1], disturbed), "earlier runs were not timed then"


def test_check_says_what_its_times_rest_on(
    home: Path,
    took: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("flows.run.arithmetic.machine_speed", lambda *_: speed())
    record(home, took, 100.0, tokens=TOKENS)
    asked = ["check", "pico-smoke", "--set", "train.max_steps=8"]
    assert cli.main(asked) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Times of resolve base, train adapter: from 1 earlier run here." in text
    assert "measured on this machine (2 cores, each 100 GFLOP/s in float32 and 5 in bfloat16" in text
    assert "To be computed in float32: bfloat16 is 25 times slower on this processor." in text
    assert cli.main([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["arithmetic"]["effective"] == "float32"
    assert document["arithmetic"]["sentence"] in text
    stages = {one["stage"]: one for one in document["stages"]}
    assert stages["train adapter"]["basis"] == "from 1 earlier run here"
    assert stages["evaluate"]["basis"] == MEASURED
    assert stages["train adapter"]["seconds"] == pytest.approx(100, rel=1e-6)


def test_planning_loads_nothing_heavy() -> None:
    code = (
        "import sys, flows.planning.clock, flows.planning.estimate\n"
        "print(sorted({'torch', 'transformers', 'peft', 'prefect'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=seconds(60)
    )
    assert done.stdout.strip() == "[]", done.stderr
