"""Every page, of an empty registry and of one with something of everything; what is wrong with an address."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flows.ui.headers import POLICY
from flows.ui.pages import FOR_ADMINS, SCREENS, relative, shown
from flows.ui.static_files import FOLDER
from registry import Artifact, Registry
from registry.schedules.schedules import checked
from stages.training_record import HISTORY
from tests.flows.lineages import publish
from tests.flows.metrics.watched import WAIVER, answered
from tests.flows.ui.measured import measure, measure_drawn, measure_fields

VENDORED = {
    "htmx.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""sha256 of the release files, as npm has them."""


@pytest.mark.parametrize("path", [path for _, path in SCREENS + FOR_ADMINS])
def test_each_screen_of_an_empty_registry_says_what_to_do(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == POLICY
    assert "empty-title" in answer.text or path in ("/health", "/store")


@pytest.mark.parametrize("path", [path for _, path in SCREENS + FOR_ADMINS])
def test_each_screen_of_a_full_registry(client: TestClient, made: dict[str, Artifact], path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "empty-title" not in answer.text or path in ("/schedules", "/users", "/webhooks")


def test_a_night_is_that_of_the_schedules_time_zone_unless_another_is_named(
    client: TestClient, registry: Registry
) -> None:
    assert client.get("/schedules/night").status_code == 200, "before there is a schedule"
    definition = checked(recipe_name="r.yaml", recipe={}, channels=("a/b",), zone="Europe/Berlin")
    registry.schedules.put("nightly", definition, "ada", replace=False)
    assert "Europe/Berlin" in client.get("/schedules/night").text
    assert client.get("/schedules/night?zone=UTC").status_code == 404


def test_the_fleet_says_what_is_live_and_what_needs_somebody(
    client: TestClient, made: dict[str, Artifact]
) -> None:
    text = client.get("/").text
    assert made["gguf"].id in text
    assert "canary 10 %" in text
    assert "10 requests, 1,000 tokens" in text
    assert "10.0 % failed" in text
    assert "gate insufficient" in text


def test_the_fleet_says_which_channel_is_without_a_gate_for_long(
    client: TestClient, made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    says = '<a href="/channels/support/first">support/first serves what no gate passed</a>'
    assert "serves what no gate passed" not in client.get("/").text, "it is a day old at most"
    monkeypatch.setattr("flows.ui.screens.fleet.WAIVED", timedelta(0))
    monkeypatch.setattr("flows.ui.screens.fleet.OLDEST", 0.0)
    text = client.get("/").text
    assert says in text
    assert "support/prod serves what no gate passed" not in text


def test_the_fleet_is_rendered_once_for_all_who_look_until_something_changes(
    client: TestClient, registry: Registry, made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.ui.screens.fleet.OLDEST", 1000.0)
    first = client.get("/").text
    registry.name(made["gguf"].id, "a-name-of-its-own")
    assert client.get("/").text == first, "a name alone is not seen until it is old"
    registry.channels.move("support/another", made["gguf"].id, 0, waiver=WAIVER)
    text = client.get("/").text
    assert "support/another" in text
    assert "a-name-of-its-own" in text


def test_an_open_page_that_is_told_of_traffic_finds_it(
    client: TestClient, registry: Registry, made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.ui.screens.fleet.OLDEST", 1000.0)
    changes = client.app.state.changes  # type: ignore[attr-defined]
    assert client.portal is not None
    client.portal.call(changes.look)
    first = client.get("/").text
    assert "10 requests" in first
    registry.outcomes.add([answered("support/prod", made["gguf"].id, datetime.now(UTC))])
    assert client.get("/").text == first, "traffic may be a second old"
    client.portal.call(changes.look)
    assert "20 requests" in client.get("/").text


def test_each_artifact_has_a_page_with_its_lineage(client: TestClient, made: dict[str, Artifact]) -> None:
    for artifact in made.values():
        answer = client.get(f"/artifacts/{artifact.id}")
        assert answer.status_code == 200, artifact.manifest.kind
        assert f'href="/artifacts/{artifact.id}"' in answer.text
        assert 'class="node kind-' in answer.text


def test_a_prefix_leads_to_the_artifact(client: TestClient, made: dict[str, Artifact]) -> None:
    artifact = made["gguf"]
    assert client.get(f"/artifacts/{artifact.id[:10]}").headers["location"] == f"/artifacts/{artifact.id}"
    found = client.get("/artifacts", params={"q": artifact.id[:10]})
    assert found.headers["location"] == f"/artifacts/{artifact.id}"


def test_filters_stand_in_the_address(client: TestClient, made: dict[str, Artifact]) -> None:
    text = client.get("/artifacts", params={"kind": "quantized", "method": "gguf"}).text
    assert made["gguf"].id in text
    assert made["gptq"].id not in text
    assert made["base"].id not in text
    assert "Nothing matches" in client.get("/artifacts", params={"q": "no such thing"}).text


def test_pages_follow_one_another(
    client: TestClient, made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.ui.screens.artifacts.ROWS", 2)
    seen: list[str] = []
    path = "/artifacts"
    while path:
        text = client.get(path).text
        seen += re.findall(r'name="id" value="([0-9a-f]{64})"', text)
        older = re.search(r'href="([^"]*before=\d+)"', text)
        path = older.group(1).replace("&amp;", "&") if older else ""
    assert len(seen) == len(set(seen)) >= len(made)


def test_a_comparison_of_nothing_says_how_to_begin(client: TestClient) -> None:
    answer = client.get("/compare")
    assert answer.status_code == 200
    assert "Add the models to compare" in answer.text
    assert 'name="id"' in answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/artifacts/" + "0" * 64, 404),
        ("/artifacts/x", 404),
        ("/artifacts?before=-1", 404),
        ("/artifacts?before=99999999999999999999", 404),
        ("/channels/no/such", 404),
        ("/gates/000000", 404),
        ("/compare?id=" + "&id=".join("abcde"), 404),
        ("/runs/none", 404),
        ("/static/none.js", 404),
        ("/static/x/..%2fapp.py", 404),
    ],
)
def test_a_wrong_address_is_answered_with_a_page(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


def test_text_of_others_is_escaped(client: TestClient, registry: Registry, made: dict[str, Artifact]) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    registry.rollouts.start("support/prod", made["gptq"].id, 1.0, 0.0, evil, evil)
    for path in ("/", "/channels/support/prod", "/channels"):
        text = client.get(path).text
        assert "<script>alert" not in text
        assert "<img" not in text


def test_vendored_files_are_the_releases() -> None:
    for name, digest in VENDORED.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
        assert name in (FOLDER / "THIRD_PARTY.md").read_text("utf-8")


def test_a_browser_keeps_scripts_and_styles(client: TestClient) -> None:
    addresses = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/").text))
    assert len(addresses) == 4
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    old = client.get(f"/static/{'0' * 16}/tuneline.css")
    assert old.headers["cache-control"] == "no-cache"


def test_no_page_has_inline_scripts_or_styles(client: TestClient, made: dict[str, Artifact]) -> None:
    paths = [path for _, path in SCREENS] + [f"/artifacts/{one.id}" for one in made.values()]
    for path in [*paths, "/channels/support/prod"]:
        text = client.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", text), path


def test_a_comparison_shows_what_differs(client: TestClient, made: dict[str, Artifact]) -> None:
    ids = [made["gguf"].id, made["gptq"].id]
    text = client.get("/compare", params={"id": ids}).text
    assert "quantize.method" in text
    assert "No task was measured on all of them" in text


def test_equal_curves_of_a_comparison_are_one(
    client: TestClient, registry: Registry, made: dict[str, Artifact]
) -> None:
    def trained(seed: int, *losses: float) -> Artifact:
        history = "".join(f'{{"step": {step}, "loss": {loss}}}\n' for step, loss in enumerate(losses))
        files = {"adapter_model.safetensors": bytes([seed]), HISTORY: history.encode()}
        manifest = made["adapter"].manifest
        parents = (("adapter", made["base"]),)
        return publish(registry, "adapter", "train", files, parents, base=manifest.base, quant=manifest.quant)

    one, same, other = trained(1, 2.0, 1.0), trained(2, 2.0, 1.0), trained(3, 2.0, 1.5)
    ids = [one.id, same.id, other.id]
    series = client.get("/compare/curves.json", params={"id": ids}).json()["series"]
    assert series == [
        {"name": f"adapter {one.id[:7]} and adapter {same.id[:7]} (the same curve)", "values": [2.0, 1.0]},
        {"name": f"adapter {other.id[:7]}", "values": [2.0, 1.5]},
    ]


def test_figures_of_all_items_and_units_are_shown(
    client: TestClient, registry: Registry, made: dict[str, Artifact]
) -> None:
    measured = measure_fields(registry, made["gguf"], [2, 1, 2, 2])
    measure_fields(registry, made["gptq"], [2, 1, 0, 2])
    page = client.get(f"/artifacts/{measured.id}").text
    assert "87.5% (40.0–90.0), n = 4" in page
    assert "31.2 of 100 (29–33), n = 4" in page
    text = client.get("/compare", params={"id": [made["gguf"].id, made["gptq"].id]}).text
    assert "heldout/fields_f1: -0.25 against" in text
    assert "1 of 4 items" in text


def test_a_comparison_is_paired_and_shows_the_flips(
    client: TestClient, registry: Registry, made: dict[str, Artifact]
) -> None:
    measure(registry, made["gguf"], [1, 0, 1, 1], ["a b c", "wrong", "yes it is", "yes"])
    measure(registry, made["gptq"], [1, 1, 0, 1], ["a b c", "right", "yes it is not", "yes"])
    ids = [made["gguf"].id, made["gptq"].id]
    text = client.get("/compare", params={"id": ids}).text
    assert "on 4 paired items (1 gained, 1 lost;" in text
    assert "2 of 4 items" in text
    assert "yes it is<ins> not</ins>" in text
    every = client.get("/compare", params={"id": ids, "flips": "0"}).text
    assert "4 of 4 items" in every
    assert client.get("/compare", params={"id": ids, "task": "none"}).status_code == 404


def test_a_comparison_has_pass_at_k_also_where_one_side_is_always_right(
    client: TestClient, registry: Registry, made: dict[str, Artifact]
) -> None:
    measure_drawn(registry, made["gguf"], [4, 4, 4, 4])
    measure_drawn(registry, made["gptq"], [1, 2, 4, 4])
    text = client.get("/compare", params={"id": [made["gptq"].id, made["gguf"].id]}).text
    assert "heldout/pass@1[exact_match]: +0.3125 against" in text


def test_a_decision_shows_its_rules_and_signature(
    client: TestClient, registry: Registry, made: dict[str, Artifact]
) -> None:
    decision = registry.gates.about(made["gguf"].id)[0]
    text = client.get(f"/gates/{decision.id}").text
    assert "signature holds" in text


def test_a_run_shows_its_stages(client: TestClient, made: dict[str, Artifact]) -> None:
    text = client.get("/runs/20260302-093000-bbbbbb").text
    assert "failed at train adapter" in text
    assert '<div id="run">' in text, "what the page of the run that went on takes over"
    assert "no room" in text
    assert "gate not asked" not in text, "it did not come to its gate"
    assert "gate not asked" in client.get("/runs/20260301-093000-aaaaaa").text


def test_the_report_of_a_run_is_kept_in_a_sandbox(
    client: TestClient, registry: Registry, made: dict[str, Artifact]
) -> None:
    folder = registry.home / "runs" / "20260301-093000-aaaaaa"
    (folder / "report.html").write_text("<html><style>a {}</style>", encoding="utf-8")
    answer = client.get("/runs/20260301-093000-aaaaaa/report")
    assert answer.status_code == 200
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "just now"), (70, "1 min ago"), (-7200, "in 2 h"), (200_000, "2 d ago"), (9e7, "3 years ago")],
)
def test_times_in_words(seconds: float, text: str) -> None:
    assert relative(seconds) == text


def test_names_within_values_stay_as_they_are() -> None:
    text = str(shown({"by_type": {"Q4_K_M": 3}, "damping_raised": {"0.self_attn.q_proj": 0.02}}))
    for name in ("by type", "Q4_K_M", "damping raised", "0.self_attn.q_proj"):
        assert f">{name}<" in text


def test_a_log_cannot_be_asked_for_outside_of_its_folder(
    client: TestClient, made: dict[str, Artifact], tmp_path: Path
) -> None:
    (tmp_path / "secret.log").write_text("key")
    for name in ("..%2f..%2f..%2f..%2fsecret", "%2fetc%2fpasswd"):
        assert client.get(f"/runs/20260301-093000-aaaaaa/logs/{name}").status_code == 404


def test_curves_are_json(client: TestClient, registry: Registry, made: dict[str, Artifact]) -> None:
    report = registry.home / "runs" / "20260301-093000-aaaaaa" / "report.json"
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "validation_loss": 1.5}, {"step": 2, "loss": 1.0}]
    report.write_text(json.dumps({**json.loads(report.read_text()), "history": history}))
    curve = client.get("/runs/20260301-093000-aaaaaa/curve.json").json()
    assert curve["x"] == [1, 2]
    assert [series["values"] for series in curve["series"]] == [[2.0, 1.0], [None, 1.5]]
