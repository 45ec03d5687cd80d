from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from flows.errors import InvalidRecipe
from flows.metrics.families import FAMILIES
from flows.metrics.rates import Prices, read_rates
from flows.run.runs import begin
from registry import Artifact, Registry
from registry.errors import StoreFailed
from registry.monitoring import state
from registry.processes import ProcessId
from tests.flows.metrics import watched
from tests.flows.metrics.watched import HOST, WAIVER, Scraper, answered, populate, scraper
from tests.seconds import seconds


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, dict[str, Artifact]]]:
    with Registry.open(tmp_path_factory.mktemp("metrics") / "home") as registry:
        yield registry, populate(registry)


@pytest.fixture(scope="module")
def scrape(filled: tuple[Registry, dict[str, Artifact]]) -> Iterator[Scraper]:
    with scraper(filled[0]) as scrape:
        yield scrape


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as registry:
        yield registry


def test_every_family_has_samples_in_a_registry_with_something_of_everything(scrape: Scraper) -> None:
    text = scrape.text()
    names = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if line[0] != "#"}
    expected = {f"{one.name}_total" if one.kind == "counter" else one.name for one in FAMILIES}
    assert names == expected
    assert all(f"# HELP {one.name} {one.text}" in text for one in FAMILIES)


def test_what_a_channel_points_to(scrape: Scraper, filled: tuple[Registry, dict[str, Artifact]]) -> None:
    registry, made = filled
    live = made["gguf"]
    info = scrape.values("tuneline_channel_info")
    assert info[live.id[:12], "support/prod", "quantized", "gguf"] == 1
    lineage = scrape.values("tuneline_channel_lineage_timestamp_seconds")
    assert lineage["support/prod", "adapter"] == made["adapter"].created.timestamp()
    assert lineage["support/prod", "dataset"] == made["dataset"].created.timestamp()
    waived = scrape.values("tuneline_channel_waived_timestamp_seconds")
    assert waived == {("support/first",): registry.channels.history("support/first")[0].at.timestamp()}
    verdicts = scrape.values("tuneline_channel_gate_verdict")
    assert verdicts == {("support/prod", "pass"): 1, ("support/first", "waived"): 1}
    margins = scrape.values("tuneline_channel_gate_margin")
    assert margins["support/prod", "routing/exact_match", "pass"] == pytest.approx(0.01)
    assert margins["support/prod", "size", "pass"] == 20
    candidate = scrape.values("tuneline_channel_candidate_verdict")
    assert candidate == {(made["gptq"].id[:12], "support/prod", "insufficient"): 1}
    scores = scrape.values("tuneline_channel_score")
    labels = ("support/prod", "exact_match", "routing")
    assert [scores[bound, *labels] for bound in ("low", "value", "high")] == [0.5, 0.625, 0.75]
    assert scrape.values("tuneline_channel_score_items")[labels] == 231


def test_costs_are_reckoned_with_the_users_rates(scrape: Scraper) -> None:
    """Each execution took 1.5 s, and five led to either file: base, dataset, adapter, merged, itself."""
    costs = scrape.values("tuneline_artifact_cost")
    assert sorted(channel for _, channel, _ in costs) == ["support/first", "support/prod"]
    assert {round(cost, 6) for cost in costs.values()} == {round(5 * 1.5 * 3.6 / 3600, 6)}
    assert scrape.values("tuneline_stage_gpu_seconds_total")[HOST, "train"] == 1.5
    assert scrape.values("tuneline_stage_cpu_seconds_total")[HOST, "train"] == 3.0
    runs = {run: cost for (_, _, run), cost in scrape.values("tuneline_run_cost").items()}
    assert runs == {
        "20260301-093000-aaaaaa": pytest.approx(2.0 * 3.6 / 3600),
        "20260302-093000-bbbbbb": pytest.approx(2.0 * 3.6 / 3600),
    }
    assert scrape.values("tuneline_tenant_day_cost") == {("EUR", "acme"): 0.02 * 250 / 1000}
    assert scrape.values("tuneline_thousand_tokens_cost") == {("EUR",): 1000 * 0.5 / 1000}


def test_what_has_no_price_is_left_out(filled: tuple[Registry, dict[str, Artifact]]) -> None:
    with scraper(filled[0], Prices(thousand_tokens=0)) as scrape:
        assert scrape.values("tuneline_artifact_cost") == {}
        assert scrape.values("tuneline_run_cost") == {}
        assert scrape.values("tuneline_thousand_tokens_cost") == {}
        assert scrape.values("tuneline_tenant_day_cost") == {("EUR", "acme"): 0.0}


def test_tokens_of_today(scrape: Scraper) -> None:
    assert scrape.values("tuneline_tenant_day_tokens") == {("used", "acme"): 250, ("reserved", "acme"): 300}
    assert scrape.values("tuneline_tenant_day_tokens_limit") == {("acme",): 1000}


def test_an_endpoint_that_serves_another_artifact_is_drift(registry: Registry) -> None:
    made = populate(registry)
    with scraper(registry) as scrape:
        drift = scrape.values("tuneline_channel_drift")
        assert drift["support/prod", "llama.cpp"] == 0
        registry.channels.move("support/prod", made["gptq"].id, 1, waiver=WAIVER)
        assert scrape.values("tuneline_channel_drift")["support/prod", "llama.cpp"] == 1
        registry.channels.rollback("support/prod", "it was better", "tests")
        assert scrape.values("tuneline_channel_drift")["support/prod", "llama.cpp"] == 0
        waived = scrape.values("tuneline_channel_waived_timestamp_seconds")
        assert ("support/prod",) not in waived  # a rollback to what a gate passed


def test_a_gateway_that_goes_on_with_the_old_artifact_is_drift(registry: Registry) -> None:
    made = populate(registry)
    soon = datetime.now(UTC) + timedelta(minutes=2)
    with scraper(registry) as scrape:
        registry.channels.move("support/prod", made["gptq"].id, 1, waiver=WAIVER)
        assert scrape.values("tuneline_channel_drift")["support/prod", "gateway"] == 0
        registry.outcomes.add([answered("support/prod", made["gguf"].id, soon)])
        assert scrape.values("tuneline_channel_drift")["support/prod", "gateway"] == 1
        later = soon + timedelta(minutes=1)
        registry.outcomes.add([answered("support/prod", made["gptq"].id, later, arm="live")])
        assert scrape.values("tuneline_channel_drift")["support/prod", "gateway"] == 0


def test_a_dead_endpoint_is_down_until_it_is_stopped(registry: Registry) -> None:
    made = populate(registry)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as engine:
        endpoint = registry.endpoints.add(
            artifact_id=made["gguf"].id, engine="vllm", url="u", process=ProcessId.of(engine.pid), log="log"
        )
        with scraper(registry) as scrape:
            up = ("", endpoint.id, "vllm")
            assert scrape.values("tuneline_endpoint_up")[up] == 1
            engine.kill()
            engine.wait()
            assert scrape.values("tuneline_endpoint_up")[up] == 0
            registry.endpoints.mark_stopped(endpoint.id)
            assert up not in scrape.values("tuneline_endpoint_up")


def test_damage_counts_until_it_is_repaired(registry: Registry) -> None:
    merged = populate(registry)["merged"]
    with scraper(registry) as scrape:
        assert scrape.values("tuneline_verify_artifacts") == {("sound",): 1, ("damaged",): 1}
        assert scrape.values("tuneline_verify_problems") == {(merged.id[:12],): 1}
        blob = watched.damage(registry, merged)  # twice reversed
        watched.repair(registry, merged, blob[::-1])
        assert registry.verify(merged.id) == []
        assert scrape.values("tuneline_verify_artifacts") == {("sound",): 2, ("damaged",): 0}


def test_the_latest_run_of_a_recipe_counts(registry: Registry) -> None:
    with scraper(registry) as scrape:
        assert set(scrape.values("tuneline_runs").values()) == {0}
        watched.past_run(registry.home, "20260301-000000-aaaaaa", failed=True)
        assert scrape.values("tuneline_recipe_run_state")["demo", "failed"] == 1
        lock = begin(registry.home / "runs" / "20260302-000000-bbbbbb", "demo", datetime.now(UTC))
        assert scrape.values("tuneline_recipe_run_state")["demo", "running"] == 1
        os.close(lock)  # as the system does when a process is killed
        assert scrape.values("tuneline_recipe_run_state")["demo", "killed"] == 1
        watched.past_run(registry.home, "20260303-000000-cccccc")
        assert scrape.values("tuneline_recipe_run_state")["demo", "done"] == 1
        assert scrape.values("tuneline_recipe_run_state")["demo", "failed"] == 0
        states = {state: n for (state,), n in scrape.values("tuneline_runs").items() if n}
        assert states == {"failed": 1, "killed": 1, "done": 1}
        assert scrape.values("tuneline_recipe_run_seconds") == {("demo",): 83.0}


def test_a_registry_that_is_away_is_told(
    filled: tuple[Registry, dict[str, Artifact]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> contextlib.AbstractContextManager[None]:
        raise StoreFailed("the database does not answer")

    monkeypatch.setattr(filled[0].database, "read", away)
    with scraper(filled[0]) as scrape:
        assert scrape.values("tuneline_registry_up") == {(): 0}
        assert scrape.values("tuneline_runs")[("failed",)] == 1
        assert scrape.values("tuneline_channel_info") == {}


def test_series_are_bounded(
    filled: tuple[Registry, dict[str, Artifact]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "MOST_CHANNELS", 1)
    with scraper(filled[0]) as scrape:
        assert [channel for _, channel, *_ in scrape.values("tuneline_channel_info")] == ["support/first"]
        assert scrape.values("tuneline_registry_channels") == {(): 2}


def test_no_key_stands_in_the_metrics(registry: Registry) -> None:
    tenant, record, key = registry.tenants.add("acme", "support/prod", "tests")
    with scraper(registry) as scrape:
        text = scrape.text()
    assert tenant.name in text
    assert not [secret for secret in (key, key.rpartition("-")[2], record.id) if secret in text]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("machine_hour: -1\n", "machine_hour"),
        ("currency: euro\n", "currency"),
        ("machine_hours: 1\n", "machine_hour"),
        ("- 1\n", "rates.yaml"),
        ("machines: [{host: a, cpus: -2}]\n", r"machines\[0\].cpus|machines.0.cpus"),
        ("machines: [{hour: 2}]\n", "host"),
    ],
)
def test_bad_rates_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rates.yaml").write_text(text)
    with pytest.raises(InvalidRecipe, match=message):
        read_rates(tmp_path / "rates.yaml")


def test_the_command_serves_loopback_names_only(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "rates.yaml").write_text("machine_hour: 1\n")
    command = [sys.executable, "-m", "flows.cli", "metrics", "--port", "0", "--json"]
    environment = {
        **os.environ,
        "TUNELINE_HOME": str(registry.home),
        "TUNELINE_RATES": str(tmp_path / "rates.yaml"),
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            announced = json.loads(process.stdout.readline())
            assert announced["rates"] == str(tmp_path / "rates.yaml")
            answer = httpx.get(announced["url"], timeout=seconds(20))
            assert "tuneline_registry_up 1.0" in answer.text
            assert answer.headers["content-type"].startswith("application/openmetrics-text")
            strange = httpx.get(announced["url"], headers={"host": "evil.test"}, timeout=seconds(20))
            assert (strange.status_code, "tuneline_" in strange.text) == (400, False)
        finally:
            process.terminate()
        assert process.wait(seconds(20)) == 0
