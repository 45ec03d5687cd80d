"""Held-out answers scored by a list of metrics: what the evaluation keeps of each item, and of all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.gates.evidence import load_evidence
from registry.evaluation_results import ScoredResult, read_items
from stages.backends import chat
from stages.backends.evaluate.heldout import HeldoutItems
from stages.backends.evaluate.lm_eval_tasks import run_task
from stages.backends.evaluate.prompts import check_metrics
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.contract import Parent
from stages.errors import InvalidInput, StageError
from stages.evaluate import evaluate
from tests.stages.backends import templates
from tests.stages.backends.evaluate.test_heldout import Parrot, speaking
from tests.stages.scoring.fake_judge import fake_judge, shown

Chat = list[dict[str, Any]]


@pytest.fixture(scope="module")
def plain(pico_base: Parent) -> Any:
    return chat.load_tokenizer(pico_base.path)


def spoken(*texts: str) -> Chat:
    """Questions and answers in turn."""
    return [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]


def dataset(folder: Path, rows: list[Chat]) -> Parent:
    folder.mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.table({"messages": rows}), folder / f"{split}.parquet")
    return Parent(id="0" * 64, kind="dataset", path=folder)


def measured(tmp_path: Path, tokenizer: Any, rows: list[Chat], said: list[Chat], **task: Any) -> ScoredResult:
    """A model that knows `said` by heart, asked for `rows`."""
    heldout = HeldoutTask(max_new_tokens=64, **task)
    return run_task(Parrot(tokenizer, said), heldout, dataset(tmp_path / "data", rows), 0, tmp_path)


ORDERS = [spoken(f"order {k}", json.dumps({"sku": f"a{k}", "n": k})) for k in range(3)]
WRONG = [spoken(f"order {k}", json.dumps({"sku": f"a{k}", "n": 2})) for k in range(3)]


def test_every_metric_keeps_what_each_item_scored(plain: Any, tmp_path: Path) -> None:
    schema = {"kind": "json_schema", "inline": {"properties": {"n": {"maximum": 1}}}}
    metrics = ["fields", "exact", "rouge_l", "bleu", "length", "refusal", "number", schema]
    found = measured(tmp_path, plain, ORDERS, WRONG, metrics=metrics)
    values = {name: round(metric["value"], 3) for name, metric in found["metrics"].items()}
    assert values["fields_f1"] == round(4 / 6, 3)
    assert values["fields_f1[sku]"] == 1.0
    assert values["fields_precision[n]"] == round(1 / 3, 3)
    assert (values["exact_match"], values["number"], values["json_valid"]) == (round(1 / 3, 3),) * 2 + (1.0,)
    assert (values["json_schema"], values["length"], values["refusal_none"]) == (0.0, 4.0, 1.0)
    assert found["metric"] == next(iter(found["metrics"])) == "fields_f1"
    assert (found["metrics"]["bleu"]["unit"], found["metrics"]["length"]["unit"]) == ("of 100", "words")
    assert found["metrics"]["fields_f1"]["figure"] == "f1"
    rows = read_items(tmp_path, found)
    assert [row["score"] for row in rows] == [0.5, 0.5, 1.0]
    assert [row["counts"]["fields"] for row in rows] == [[1, 2, 2], [1, 2, 2], [2, 2, 2]]
    assert set(rows[0]["scores"]) == {
        "exact_match", "rouge_l", "length", "refusal", "refusal_none", "number", "json_schema", "json_valid",
    }  # fmt: skip


def test_what_is_not_listed_is_not_scored(plain: Any, tmp_path: Path) -> None:
    found = measured(tmp_path, plain, [spoken("q", "Yes.")], [spoken("q", "yes")], metrics=["normalized"])
    assert {name: metric["value"] for name, metric in found["metrics"].items()} == {"normalized_match": 1.0}


def test_without_a_list_all_is_as_before_there_was_one(plain: Any, tmp_path: Path) -> None:
    task = HeldoutTask()
    assert HeldoutTask(metrics=["exact"]) == task, "what is written out is the default"
    assert {"metrics", "turns"}.isdisjoint(task.model_dump(mode="json"))
    found = measured(tmp_path, plain, ORDERS, ORDERS)
    assert list(found["metrics"]) == ["exact_match", "json_valid"]
    assert set(found["metrics"]["exact_match"]) == {"value", "low", "high", "n", "interval"}
    assert "metrics" not in found["config"]
    assert {"counts", "references"}.isdisjoint(read_items(tmp_path, found)[0])


CHATS = [spoken("hi", "hello", f"and {k}?", "yes", "really?", "no") for k in range(4)]


def test_each_answer_of_a_chat_is_an_item_of_its_cluster(plain: Any, tmp_path: Path) -> None:
    size = {"kind": "length", "unit": "characters"}
    found = measured(tmp_path, plain, CHATS, CHATS, metrics=["exact", size], turns="all")
    rows = read_items(tmp_path, found)
    assert [row["target"] for row in rows] == ["hello", *["yes", "no"] * 4], "one beginning is one item"
    assert len({row["cluster"] for row in rows}) == 4
    assert rows[1]["cluster"] == rows[2]["cluster"] != rows[3]["cluster"]
    exact, length = (found["metrics"][name] for name in ("exact_match", "length"))
    assert (exact["value"], length["interval"]) == (1, "clustered")
    assert exact["low"] == pytest.approx(0.5101, abs=1e-4), "of 4 chats, not of 9 items"
    small = tmp_path / "few"
    small.mkdir()
    few = measured(small, plain, CHATS, CHATS, turns="all", max_items=2)
    assert few["n"] == 2


def test_a_schema_is_recorded_by_its_digest_wherever_it_lies(plain: Any, tmp_path: Path) -> None:
    results = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        file = tmp_path / place / "order.json"
        file.write_text('{"required": ["sku"]}')
        metric = {"kind": "json_schema", "path": str(file)}
        results.append(measured(tmp_path / place, plain, ORDERS, ORDERS, metrics=[metric]))
    digest = hashlib.sha256(b'{"required": ["sku"]}').hexdigest()
    assert results[0]["config"]["metrics"][0]["path"] == f"order.json@{digest}"
    assert results[0]["config_digest"] == results[1]["config_digest"]


def test_a_function_of_the_user_s_scores_answers(plain: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import json\n\n\ndef score(answer, references, messages):\n"
        "    assert messages[-1]['content'].startswith('order')\n"
        "    return json.loads(answer)['n'] - json.loads(references[0])['n']\n"
    )
    metric = {"kind": "python", "path": str(file), "name": "excess", "unit": "pieces"}
    found = measured(tmp_path, plain, ORDERS, WRONG, metrics=[metric, "exact"])
    assert [row["score"] for row in read_items(tmp_path, found)] == [2.0, 1.0, 0.0]
    assert (found["metric"], found["metrics"]["excess"]["unit"]) == ("excess", "pieces")
    assert found["config"]["metrics"][0]["path"].startswith("mine.py@")


TOOLS = json.dumps(
    [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("warmth", "time")]
)
TAGGED_BY_SPECIAL_TOKENS = templates.CHATML_TOOLS.replace("tool_call>", "|tool_call|>").replace("</|", "<|/")


def calling(*calls: tuple[str, Any], content: str = "") -> list[Any]:
    functions = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in calls]
    made = [{"id": f"call{k:05d}", "type": "function", "function": f} for k, f in enumerate(functions)]
    asked = {"role": "user", "content": f"How is {len(calls)}?", "tools": TOOLS}
    return [asked, {"role": "assistant", "content": content, **({"tool_calls": made} if made else {})}]


@pytest.mark.parametrize(
    "template", [templates.CHATML_TOOLS, templates.SINGLE_CALL, TAGGED_BY_SPECIAL_TOKENS], ids=range(3)
)
def test_calls_are_scored_as_the_template_writes_them(template: str, plain: Any, tmp_path: Path) -> None:
    tokenizer = speaking(plain, template)
    expected = [calling(("warmth", {"town": "Bo"})), calling(content="No idea.")]
    found = measured(tmp_path, tokenizer, expected, expected, metrics=["tool_call", "exact"])
    values = {name: metric["value"] for name, metric in found["metrics"].items()}
    assert values == {
        "tool_call": 1.0, "tool_call_name": 1.0, "exact_match": 1.0, "tool_call_arguments_f1": 1.0,
        "tool_call_arguments_precision": 1.0, "tool_call_arguments_recall": 1.0,
    }  # fmt: skip
    assert '"Bo"' in read_items(tmp_path, found)[0]["target"]


def test_wrong_and_parallel_calls(plain: Any, tmp_path: Path) -> None:
    tokenizer = speaking(plain, templates.CHATML_TOOLS)
    warmth, elsewhere, time = ("warmth", {"town": "Bo"}), ("warmth", {"town": "Lima"}), ("time", {"zone": 1})
    expected, said = [calling(warmth, time), calling(warmth)], [calling(time, warmth), calling(elsewhere)]
    found = measured(tmp_path, tokenizer, expected, said, metrics=["tool_call", "exact"])
    values = {name: metric["value"] for name, metric in found["metrics"].items()}
    assert (values["tool_call"], values["tool_call_name"], values["exact_match"]) == (0.5, 1.0, 0.0)
    assert values["tool_call_arguments_f1"] == pytest.approx(2 / 3)


def test_an_answer_of_nothing_is_no_call(plain: Any, tmp_path: Path) -> None:
    tokenizer = speaking(plain, templates.CHATML_TOOLS)
    task = HeldoutTask.model_validate({"metrics": ["exact", "tool_call"]})
    data = dataset(tmp_path / "data", [calling(("time", {}))])
    items = HeldoutItems(task, data.path, Parrot(tokenizer, []))
    scores = items.process_results(items.dataset["test"][0], [""])
    assert scores == {"exact_match": 0.0, "tool_call": 0.0, "tool_call_name": 0.0}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("fields", r"task heldout: metric fields: .* row 0 of the split is not JSON: 'yes'"),
        ("number", r"metric number: the expected answer of row 0 .* has no number: 'yes'"),
        ({"kind": "python", "path": "nowhere.py"}, r"nowhere.py is not a file"),
        ({"kind": "json_schema", "path": "nowhere.json"}, r"nowhere.json: cannot be read"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_model_is_opened(
    metric: Any, message: str, tmp_path: Path
) -> None:
    parents = {
        "model": Parent(id="1" * 64, kind="merged", path=tmp_path / "there is no model"),
        "dataset": dataset(tmp_path / "data", [spoken("q", "yes")]),
    }
    config = EvaluateConfig.model_validate({"tasks": [{"metrics": [metric]}]})
    with pytest.raises(InvalidInput, match=message):
        evaluate(parents, config, tmp_path)
    check_metrics(EvaluateConfig(), parents)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["exakt"], r"'exakt'"),
        ([], r"at least 1 item"),
        (["exact", "exact"], r"two metrics give the score 'exact_match'"),
        (
            [{"kind": "regex", "pattern": "a", "name": "choice_acc"}],
            r"two metrics give the score 'choice_acc'",
        ),
        ([{"kind": "regex", "pattern": "("}], r"is not a pattern that is searched in linear time"),
        ([{"kind": "json_schema"}], r"json_schema needs either path"),
        ([{"kind": "length", "at_least": 3, "at_most": 2}], r"at_least 3 is more than at_most 2"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(metrics: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeldoutTask.model_validate({"metrics": metrics})


def test_a_gate_reads_what_was_written(plain: Any, tmp_path: Path) -> None:
    """The evaluation of a pico model as a gate's evidence: figures of all items with each item's own."""
    from tests.flows.evaluation_files import write

    found = measured(tmp_path, plain, ORDERS, WRONG, metrics=["fields", "bleu", "rouge_l"])
    results = {
        "harness": {}, "seed": 0, "chat_template": "t", "tasks": {"heldout": found},
        "model": {"subject": "m", "bytes": 1, "bits_per_weight": 4.0},
    }  # fmt: skip
    files = {
        "results.json": json.dumps(results).encode(),
        found["samples"]: (tmp_path / found["samples"]).read_bytes(),
    }
    evidence = load_evidence(write(tmp_path / "evidence", files), "e" * 64)
    assert evidence.problems == ()
    task = evidence.tasks["heldout"]
    assert set(task.together) == {"bleu", *(m for m in found["metrics"] if m.startswith("fields_"))}
    assert sorted(task.scores["fields_f1"].values()) == [0.5, 0.5, 1.0]
    assert set(task.scores) == set(found["metrics"])


def test_a_judge_scores_all_items_and_its_report_stands_beside(
    plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    rows = [spoken(f"capital {k}", "Paris") for k in range(3)]
    said = [spoken(f"capital {k}", text) for k, text in enumerate(("Paris", "in Paris", "Rome"))]
    with fake_judge(lambda message: int("Paris" in shown(message, "answer"))) as endpoint:
        judge = {"kind": "judge", "url": endpoint.url, "model": "judge-1"}
        found = measured(tmp_path, plain, rows, said, metrics=[judge, "exact"])
    assert {name: round(metric["value"], 2) for name, metric in found["metrics"].items()} == {
        "judge": 0.67,
        "exact_match": 0.33,
    }
    assert found["judges"]["judge"]["prompt"] == "builtin:1"
    assert found["words"].endswith("; judge by judge-1 (prompt builtin:1)")
    assert found["config"]["metrics"][0]["prompt"] == "builtin:1"
    items = read_items(tmp_path, found)
    assert [row["judged"]["judge"] for row in items] == [{"verdict": 1}, {"verdict": 1}, {"verdict": 0}]
    assert [row["score"] for row in items] == [1.0, 1.0, 0.0]


def test_a_judge_that_cannot_be_asked_is_refused_before_a_model_is_opened(tmp_path: Path) -> None:
    given = dataset(tmp_path / "data", [spoken("q", "a")])
    judge = {"kind": "judge", "gguf": str(tmp_path / "none.gguf")}
    config = EvaluateConfig(tasks=(HeldoutTask(metrics=(judge,)),))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"task heldout: metric judge: .*none.gguf is not a GGUF file"):
        check_metrics(config, {"dataset": given})


@pytest.mark.parametrize("compare", ["rubric", "pairwise"])
def test_an_endpoint_is_asked_one_question_before_anything_is_generated(tmp_path: Path, compare: str) -> None:
    given = dataset(tmp_path / "data", [spoken("q", "a")])

    def check(url: str) -> None:
        judge = {"kind": "judge", "url": url, "model": "judge-1", "compare": compare}
        config = EvaluateConfig(tasks=(HeldoutTask(metrics=(judge,)),))  # type: ignore[arg-type]
        check_metrics(config, {"dataset": given})

    with fake_judge(lambda _: 1 if compare == "rubric" else "tie") as endpoint:
        check(endpoint.url)
    assert len(endpoint.messages) == 1
    assert "two and two" in shown(endpoint.messages[0], "question")
    refused = r"task heldout: asked before anything is generated: "
    with pytest.raises(StageError, match=refused + r"the judge at http\S+ gave no answer: ConnectError"):
        check(endpoint.url)
    with (
        fake_judge(lambda _: "{}") as endpoint,
        pytest.raises(
            StageError, match=refused + r"metric judge: the judge replied '{}', expected a JSON object"
        ),
    ):
        check(endpoint.url)
