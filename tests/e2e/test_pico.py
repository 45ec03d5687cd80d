"""The whole chain on a 2-layer model: every stage for real, in seconds."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Tuneline, states
from tests.flows.tracking.reading import curves
from tests.seconds import seconds

Pico = tuple[Tuneline, dict[str, Any]]
WORK = {"resolve", "prepare", "train", "evaluate", "merge", "quantize"}


def test_every_stage_runs_and_the_gate_passes(pico: Pico) -> None:
    _, document = pico
    assert document["exit_code"] == 0, document["stages"]
    assert set(states(document).values()) == {"ran"}
    assert {row["stage"] for row in document["stages"]} >= WORK | {"gate", "promote", "deploy"}
    assert document["gate"]["verdict"] == "pass"
    assert document["channel"]["name"] == "pico/smoke"


def test_every_number_says_what_it_was_measured_on(pico: Pico) -> None:
    _, document = pico
    assert [row["label"] for row in document["models"]] == [
        "base NF4", "tuned NF4 + adapter", "merged float16", "gguf-q8_0",
    ]  # fmt: skip
    for row in document["models"]:
        score = row["scores"]["routing exact_match"]
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
        assert score["n"] == 32
        assert row["measured_on"]
        assert row["bytes"] > 0
    quantized = document["models"][-1]
    assert 8 <= quantized["bits_per_weight"] < 9


def test_the_report_is_one_page(pico: Pico) -> None:
    _, document = pico
    page = Path(document["html"]).read_text("utf-8")
    assert page.count("<svg") >= 3
    assert 'src="http' not in page


def test_curves_lie_beside_the_report_for_tensorboard(pico: Pico) -> None:
    _, document = pico
    (folder,) = (Path(document["html"]).parent / "tensorboard").iterdir()
    (file,) = folder.iterdir()
    assert folder.name == "train-adapter"
    drawn, history = curves(file), document["history"]
    for tag, key in (("train/loss", "loss"), ("validation/loss", "validation_loss")):
        expected = {row["step"]: row[key] for row in history if key in row}
        assert drawn[tag] == pytest.approx(expected, rel=1e-6)
    assert set(drawn["train/tokens_per_second"]) == set(drawn["train/loss"])


def test_the_ladder_holds(pico: Pico) -> None:
    _, document = pico
    ladder = document["ladder"]
    assert ladder["breaks_at"] is None, ladder["cause"]
    rungs = {rung["label"]: rung for rung in ladder["rungs"]}
    assert list(rungs) == [
        "base NF4", "tuned NF4 + adapter", "merged float16", "gguf-q8_0", "endpoint on llama.cpp",
    ]  # fmt: skip
    assert rungs["tuned NF4 + adapter"]["figures"]["kl_mean"]["low"] > 0
    assert rungs["merged float16"]["fold"]["kl_mean"]["high"] < 1e-3
    assert rungs["gguf-q8_0"]["parent"] == "merged float16"
    assert (
        rungs["gguf-q8_0"]["to_base"]["kl_mean"]["value"] > rungs["gguf-q8_0"]["figures"]["kl_mean"]["value"]
    )
    assert rungs["endpoint on llama.cpp"]["parent"] == "gguf-q8_0"
    probe = document["endpoint"]["config"]["probe"]
    assert (probe["asked"], probe["same_prompt"]) == (4, 4)
    assert "Fidelity ladder" in Path(document["html"]).read_text("utf-8")


def test_the_endpoint_answers(pico: Pico) -> None:
    _, document = pico
    endpoint = document["endpoint"]
    assert endpoint["url"].startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{endpoint['url']}/v1/models", timeout=seconds(20)) as reply:
        names = [model["id"] for model in json.load(reply)["data"]]
    assert names == ["pico/smoke", f"tuneline-{endpoint['artifact_id'][:12]}"]
    assert endpoint["answer"]


def test_second_run_executes_no_stage(pico: Pico) -> None:
    tuneline, document = pico
    for _ in range(3):  # what one run on a machine busy with other tests takes says little
        again = tuneline.json("run", "pico-smoke", prefect=True)
        assert again["exit_code"] == 0
        ran = {label for label, state in states(again).items() if state == "ran"}
        assert ran <= {"gate"}
        assert again["endpoint"]["id"] == document["endpoint"]["id"]
        if again["seconds"] < 20:
            return
    pytest.fail(f"a run without work took {again['seconds']:.0f} s, and so did two before it")


def test_a_changed_key_reruns_exactly_what_depends_on_it(pico: Pico) -> None:
    tuneline, first = pico
    changes = ("merge.dtype=bfloat16", "merge.base=auto", "gate=null", "promote=null", "deploy=null")
    merge = tuneline.json("run", "pico-smoke", *(word for change in changes for word in ("--set", change)))
    reused = {label for label, state in states(merge).items() if state == "reused"}
    assert reused == {
        "resolve base", "prepare data", "evaluate base NF4", "train adapter", "evaluate tuned NF4",
    }  # fmt: skip
    assert states(merge).keys() - reused == {
        "merge into 16bit", "merge into nf4", "choose the merge",
        "evaluate merged", "quantize gguf-q8_0", "evaluate gguf-q8_0",
    }  # fmt: skip
    logs = [Path(run["html"]).parent / "logs/prefect.log" for run in (first, merge)]
    assert [log.exists() for log in logs] == [True, False], "Prefect is told where that is asked for"
    made = {row["label"]: row["artifact_id"] for row in merge["stages"]}
    choice = tuneline.json("artifacts", "show", made["choose the merge"])
    chosen = choice["metrics"]["merge_base"]
    assert merge["ladder"]["merge_base"]["reason"] == chosen["reason"]
    assert set(chosen["loss"]) == {"16bit", "nf4"}
    merged = tuneline.json("artifacts", "show", chosen["merged"][chosen["chosen"]])
    assert merged["quant"]["merge_base"] == chosen["chosen"]
    relations = {(parent["relation"], parent["id"]) for parent in choice["parents"]}
    assert {("evaluation_of", id_) for id_ in chosen["merged"].values()} <= relations


def test_lineage_and_verify(pico: Pico) -> None:
    tuneline, document = pico
    served = document["endpoint"]["artifact_id"]
    edges = tuneline.json("artifacts", "lineage", served)
    assert {edge["relation"] for edge in edges} >= {"quantized", "merge", "adapter", "trained_on"}
    shown = tuneline.json("artifacts", "show", "pico/smoke")
    assert shown["id"] == served
    assert shown["base"]["revision"]
    assert shown["quant"]["method"] == "gguf"
    assert shown["quant"]["requested"]["type"] == "Q8_0"
    assert tuneline.json("artifacts", "verify", served)["problems"] == []


def test_nothing_half_visible_after_a_crash(pico: Pico, monkeypatch: pytest.MonkeyPatch) -> None:
    tuneline, _ = pico
    before = {row["id"] for row in tuneline.json("artifacts", "ls", "--limit", "1000")}
    hook = tuneline.json("webhooks", "add", "https://example.org", "--events", "failed-run")["webhook"]["id"]
    settings = ("evaluate.context_length=64", "evaluate.tasks.0.max_new_tokens=40")
    broken = tuneline.json("run", "pico-smoke", *(word for one in settings for word in ("--set", one)))
    assert broken["exit_code"] == 3
    assert states(broken)["evaluate base NF4"] == "failed"
    (note,) = [row["note"] for row in broken["stages"] if row["state"] == "failed"]
    assert "raise context_length" in note
    after = {row["id"] for row in tuneline.json("artifacts", "ls", "--limit", "1000")}
    assert after == before
    assert not any(path.is_file() for path in (tuneline.home / "drafts").rglob("*"))
    told = [one["event"] for one in tuneline.json("webhooks", "deliveries", hook)]
    assert told == ["failed-run"]
    tuneline.json("webhooks", "rm", hook)


def test_corruption_is_found(pico: Pico) -> None:
    tuneline, document = pico
    merged = next(row for row in document["stages"] if row["stage"] == "merge")["artifact_id"]
    shown = tuneline.json("artifacts", "show", merged)
    victim = Path(shown["path"]) / "config.json"
    original = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(original.replace(b"Llama", b"Lluma", 1))
    try:
        found = tuneline.json("artifacts", "verify", merged)
        assert found["exit_code"] == 4
        assert any("config.json" in problem for problem in found["problems"])
    finally:
        victim.write_bytes(original)
        victim.chmod(0o444)


def test_a_schedule_runs_what_is_new_and_says_how_it_ended(pico: Pico) -> None:
    tuneline, _ = pico

    def schedule(*arguments: str) -> tuple[int, Any]:
        done = subprocess.run(
            [Path(sys.executable).with_name("tuneline"), "schedule", *arguments, "--json"],
            env=tuneline.environment(),
            cwd=tuneline.home.parent,
            capture_output=True,
            text=True,
            timeout=seconds(300),
        )
        return done.returncode, json.loads(done.stdout)

    assert schedule("add", "good", "pico-smoke", "--set", "deploy=null", "--share-devices")[0] == 0
    assert schedule("add", "bad", "pico-smoke", "--set", "prepare.source=path:/nowhere")[0] == 0
    code, (good,) = schedule("run", "good")
    assert (code, good["target"], good["state"]) == (0, "pico/smoke", "passed")
    assert good["note"] == "pico/smoke had it already"
    code, (again,) = schedule("run", "good")
    assert (code, again["state"]) == (0, "unchanged")
    assert again["note"].startswith("nothing new since it was passed on ")
    code, (bad,) = schedule("run", "bad")
    assert (code, bad["state"]) == (4, "failed")
    assert "/nowhere" in bad["note"]
    code, (waits,) = schedule("run", "bad")
    assert (code, waits["state"]) == (0, "skipped")
    assert waits["note"].startswith("waits until ")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_run_with_a_report(pico: Pico, how: signal.Signals) -> None:
    tuneline, _ = pico
    run = subprocess.Popen(
        [Path(sys.executable).with_name("tuneline"), "run", "pico-smoke", "--set", "train.seed=7"],
        env=tuneline.environment(prefect=how == signal.SIGINT),
        cwd=tuneline.home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job has it ignored, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("train adapter: 1/"):
            break
    os.killpg(run.pid, how)  # as a terminal does
    out, _ = run.communicate(timeout=seconds(60))
    assert run.returncode == 130
    assert "Interrupted at train adapter" in out
    assert "failed" not in out.lower()
    assert "interrupted; the same command again goes on from here" in out.replace("\n", " ")


@pytest.mark.parametrize(("margin", "verdict", "code"), [("0.5", "fail", 1), ("0.05", "insufficient", 2)])
def test_a_gate_that_does_not_pass_moves_nothing(pico: Pico, margin: str, verdict: str, code: int) -> None:
    tuneline, _ = pico
    before = tuneline.json("channels")
    rule = "gate.tasks.0"
    channel = f"pico/strict{margin}"
    changes = (f"{rule}.role=improve", f"{rule}.against=baseline", f"{rule}.margin={margin}", "deploy=null",
               f"promote.channel={channel}")  # fmt: skip
    document = tuneline.json("run", "pico-smoke", *(word for c in changes for word in ("--set", c)))
    assert (document["exit_code"], document["gate"]["verdict"]) == (code, verdict)
    assert f"promote to {channel}" not in states(document)
    assert tuneline.json("channels") == before


def test_a_gate_that_is_not_the_channels_policy_stops_before_any_work(pico: Pico) -> None:
    tuneline, _ = pico
    shown = tuneline.json("channels", "policy", "pico/smoke")
    assert shown["policy"]["tasks"][0]["margin"] == 0.2, "the gate of the first recipe"
    before = {row["id"] for row in tuneline.json("artifacts", "ls", "--limit", "1000")}
    refused = tuneline.json(
        "run",
        "pico-smoke",
        "--set",
        "train.seed=3",
        "--set",
        "gate.tasks.0.margin=0.3",
        "--set",
        "deploy=null",
    )
    assert refused["exit_code"] == 3
    assert "tasks.0.margin: here 0.3, channel 0.2" in refused["error"]
    assert {row["id"] for row in tuneline.json("artifacts", "ls", "--limit", "1000")} == before


def test_the_command_line_comes_to_the_recipes_verdict(pico: Pico) -> None:
    tuneline, document = pico
    served = document["endpoint"]["artifact_id"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    gate = tuneline.json("gate", "pico/smoke", "--candidate", served, "--channel", "pico/smoke")
    assert (gate["exit_code"], gate["verdict"]) == (0, "pass")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
    assert gate["rules"][0] == document["gate"]["rules"][0]
