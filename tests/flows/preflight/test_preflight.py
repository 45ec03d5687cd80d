"""What `check` and `run` refuse before anything is done: one line for each problem, all at once."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from flows.errors import InvalidRecipe
from flows.execute import execute
from flows.preflight import base, lengths, sections, surroundings
from flows.preflight.documents import remarks
from flows.preflight.preflight import problems
from flows.recipe import Recipe, load
from flows.settings import Settings
from registry import Registry
from serving.vllm import tool_parsers
from stages.backends.preview import layers_amiss, rows_mixed
from stages.config.lora import LoraConfig
from stages.model_shape import ModelShape, describe_base
from tests.flows.evaluation_files import Lineage
from tests.flows.test_promote import policy
from tests.stages.families.tiny_models import config_of

KEEP = {"task": "routing", "metric": "exact_match", "role": "keep", "against": "parent", "margin": 0.2}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TUNELINE_VLLM_PYTHON", raising=False)
    monkeypatch.setattr("serving.vllm.launch.BESIDE", tmp_path / "no-vllm" / "python")
    return Settings()


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return describe_base("pico:0")


@pytest.mark.parametrize("name", ["demo", "pico-smoke", "pico-tenant"])
def test_what_is_shipped_has_no_problem(name: str, settings: Settings, shape: ModelShape) -> None:
    assert problems(load(name), settings, shape) == []
    assert not settings.root.exists(), "looking makes no registry"


ALONE = ("gate=null", "promote=null", "deploy=null")
PAIRS = ("prepare.format=preferences", "train.method=dpo")
TEXT = (
    "prepare={source: 'path:a.jsonl', format: text, max_length: 128}",
    "evaluate.tasks=[{kind: perplexity}]",
)
LABELS = ("prepare.format=unpaired-preferences", "evaluate.tasks=[{kind: labelled}]", "deploy=null")
AREA = "task: labelled, metric: roc_auc, role: improve, against: baseline, margin: 0.1"
RULE = "task: perplexity, role: improve, against: baseline, margin: 0.1"
RECIPE_ALONE: list[tuple[str, list[str], str]] = [
    ("demo", ["gate.tasks.0.task=rouge"], "gate.tasks.0.task: 'rouge' is not a task of evaluate.tasks"),
    ("demo", ["gate.tasks.1.metric=rouge"], "gate.tasks.1.metric: 'rouge' is not a metric of the task rout"),
    ("demo", ["evaluate.tasks.0.choice=false", "gate.tasks.0.metric=choice_acc"],
     "gate.tasks.0.metric: choice_acc is measured where the task has choice: true"),
    ("demo", ["evaluate.tasks.0.metrics=[exact, rouge_l]", "gate.tasks.0.metric=rouge_l"],
     "gate.tasks.0.scores: rouge_l is not 0 or 1 for each item; set scores: real"),
    ("demo", ["evaluate.tasks.0.sample={answers: 4}", "gate.tasks.0.metric=pass@1[exact_match]"],
     "gate.tasks.0.scores: pass@1[exact_match] is not 0 or 1"),
    ("demo", ["evaluate.tasks.0.sample={answers: 4}", "gate.tasks.0.metric=pass@2[exact_match]"],
     "gate.tasks.0.metric: 'pass@2[exact_match]' is not a metric of the task"),
    ("demo", ["evaluate.tasks.0.metrics=[exact, fields]", "gate.tasks.0.metric=fields_f1[topic]"],
     "gate.tasks.0.scores: fields_f1[topic] is not 0 or 1"),
    ("demo", ["evaluate.tasks.0.metrics=[exact, {kind: judge, gguf: x, levels: 5}]",
              "gate.tasks.0.metric=judge"],
     "gate.tasks.0.scores: judge is not 0 or 1"),
    ("demo", ["promote.labels=none.jsonl"], "none.jsonl: cannot be read"),
    ("demo", ["gate.evidence={tasks: [routin]}"], "'routin' is not measured of the candidate; did you mean"),
    ("demo", ["gate.evidence={min_items: 300}", "evaluate.tasks.0.max_items=299"],
     "gate.evidence.min_items: asks for 300 items of each task, and routing measures at most 299"),
    ("demo", ["prepare.split.test=0"], "prepare.split.test: 0 leaves no rows for the held-out task"),
    ("demo", ["prepare.split.validation=0"], "merge.base: auto chooses the merge on the validation split"),
    ("demo", ["prepare.split.validation=0", "merge.base=nf4", "train.early_stopping=1"],
     "train.early_stopping stops by the validation loss; set it above 0"),
    ("demo", ["evaluate.tasks=[{name: fidelity}]", "gate=null", "promote=null", "deploy=null"],
     "evaluate.tasks.0.name: 'fidelity' is what the ladder calls a comparison"),
    ("demo", ["evaluate.tasks=[{name: routing}, {kind: fidelity, name: near}]"],
     "evaluate.tasks.1: a run compares its models as its `ladder` says"),
    ("demo", ["evaluate.tasks.0.split=validation"],
     "evaluate.tasks.0.split: validation rows are what early stopping, merges and sweeps choose by"),
    ("demo", ["evaluate.tasks=[{kind: merge-base}]", "gate=null", "promote=null", "deploy=null"],
     "evaluate.tasks.0: a run chooses its merge as `merge.base` says"),
    ("demo", ["evaluate.nf4={double_quant: false}"], "evaluate.nf4: a run measures NF4 as it trains"),
    ("demo", ["gate.fidelity=[{quant: gptq, kl_mean: 0.1}]"],
     "gate.fidelity: has limits for gptq, and none for Q8_0"),
    ("demo", ["gate.fidelity=[{quant: q8_0, kl_mean: 0.1}]", "ladder=null"], "ladder compares nothing"),
    ("demo", ["gate.fidelity=[{quant: Q8_0, kl_mean: 0.1, task: fidelity-fold}]"],
     "gate.fidelity, Q8_0: 'fidelity-fold' is not a comparison of the ladder"),
    ("demo", ["promote.candidate=gptq-4bit"], "deploy.engine: llama.cpp does not serve gptq-4bit; set it"),
    ("demo", ["promote.candidate=merged"], "deploy.engine: llama.cpp does not serve merged; set it to vllm"),
    ("demo", ["deploy.engine=vllm"], "deploy.engine: vllm does not serve gguf-q8_0; set it to llama.cpp"),
    ("demo", ["deploy.max_new_tokens=2048"], "leave no room for a question"),
    ("pico-tenant", ["train.lora.rslora=true"], "train.lora.rslora: llama.cpp does not apply"),
    ("pico-tenant", ["train.lora.dora=true"], "train.lora.dora: llama.cpp does not apply DoRA"),
    ("pico-tenant", ["adapter.base=16bit", "train.lora.dora=true"], "train.lora.dora: vllm does not apply"),
    ("pico-tenant", ["train.lora.modules_to_save=[lm_head]"], "llama.cpp applies no modules stored whole"),
    ("pico-tenant", ["adapter.base=16bit", "train.lora.modules_to_save=[lm_head]"], "vllm applies no"),
    ("pico-tenant", ["adapter.base=16bit", "train.lora.rank=513"], "train.lora.rank: 513, and vllm applies"),
    ("demo", ["train.method=dpo"], "train.method: dpo compares two answers to each prompt; set prepare"),
    ("demo", ["train.method=orpo"], "train.method: orpo compares two answers to each prompt; set prepare"),
    ("demo", ["train.method=kto"], "train.method: kto learns from answers that are each called good or bad"),
    ("demo", ["prepare.format=unpaired-preferences"], "and nothing reads the bad answers: set train.method"),
    ("demo", [*ALONE, "evaluate.tasks=[{kind: labelled}]"],
     "evaluate.tasks.0: a labelled task compares good answers with bad ones; set prepare.format"),
    ("demo", [*LABELS, f"gate.tasks=[{{slice: a=b, scores: real, {AREA}}}]", "prepare.slices=[a]"],
     "gate.tasks.0.slice: roc_auc compares all good answers with all bad ones"),
    ("demo", [*LABELS, f"gate.tasks=[{{{AREA}}}]"],
     "gate.tasks.0.scores: roc_auc is not 0 or 1 for each item; set scores: real"),
    ("demo", ["prepare.format=preferences"],
     "prepare.format: preferences, and nothing reads the rejected answers: set train.method: dpo, or add"),
    ("demo", [*ALONE, "evaluate.tasks=[{kind: preference}]"],
     "evaluate.tasks.0: a preference task compares two answers to each prompt; set prepare.format"),
    ("demo", [*ALONE, *PAIRS, "evaluate.tasks=[{kind: preference}]", "prepare.split.test=0"],
     "prepare.split.test: 0 leaves no rows for the held-out task 'preference'"),
    ("demo", [*ALONE, *PAIRS, "evaluate.tasks=[{kind: preference, name: fidelity-start}]"],
     "evaluate.tasks.0.name: 'fidelity-start' is what the ladder calls a comparison"),
    ("demo", [*ALONE, TEXT[0]], "evaluate.tasks.0: a heldout task asks for answers, and documents"),
    ("demo", [*ALONE, TEXT[1]], "evaluate.tasks.0: a perplexity task reads held-out documents; set prepare"),
    ("demo", [*TEXT, "deploy=null", f"gate.tasks=[{{metric: perplexity, scores: real, {RULE}}}]"],
     "gate.tasks.0.metric: of perplexity less is better, and a rule asks for more; set log_likelihood"),
    ("demo", [*TEXT, "deploy=null", f"gate.tasks=[{{metric: log_likelihood, {RULE}}}]"],
     "gate.tasks.0.scores: log_likelihood is not 0 or 1 for each item; set scores: real"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "overrides", "expected"), RECIPE_ALONE)
def test_what_the_recipe_alone_tells(name: str, overrides: list[str], expected: str) -> None:
    recipe = load(name, overrides)
    found = list(sections.problems(recipe, sections.task_metrics(recipe, {})))
    assert len(found) == 1, found
    assert expected in found[0]
    assert "\n" not in found[0]


def test_sound_variants_are_not_refused() -> None:
    for name, overrides in (
        ("demo", ["gate.fidelity=[{quant: q8_0, kl_mean: 0.1}]", "gate.evidence={tasks: [fidelity-base]}"]),
        ("demo", ["merge.base=nf4", "prepare.split.validation=0"]),
        ("demo", ["promote.candidate=gptq-4bit", "deploy.engine=vllm"]),
        ("pico-tenant", ["gate.fidelity=[{quant: q8_0, kl_mean: 1, task: fidelity-fold}]"]),
        ("pico-tenant", ["adapter.base=16bit", "gate.fidelity=[{quant: none, kl_mean: 1}]"]),
        ("pico-tenant", ["adapter.base=16bit", "train.lora.rslora=true"]),
        ("demo", ["gate.evidence={min_items: 299}", "evaluate.tasks.0.max_items=299"]),
        ("demo", [*ALONE, *PAIRS, "evaluate.tasks=[{kind: preference}]"]),
        ("demo", [*ALONE, PAIRS[0], "evaluate.tasks=[{kind: preference}]"]),
        ("demo", [*LABELS, f"gate.tasks=[{{scores: real, {AREA}}}]"]),
    ):
        recipe = load(name, overrides)
        assert list(sections.problems(recipe, sections.task_metrics(recipe, {}))) == []


DATA: list[tuple[dict[str, Any], bytes | None, str]] = [
    ({}, None, "no such file or directory"),
    ({}, b"", "holds no rows"),
    ({}, b'{"text": "a"}\n', "the rows have the fields text"),
    ({"format": "instruction"}, b'{"prompt": "a", "completion": "b"}\n', "not the format 'instruction'"),
    ({}, b"not json\nneither\n", "none of the first 2 rows can be used; rows.jsonl line 1: malformed JSON"),
    ({}, b'{"prompt": "a", "completion": null}\n', "none of the first 1 rows can be used; rows.jsonl line 1"),
    ({"format": "chatterbot-topic"}, b'{"prompt": "a"}\n', "no data file found; expected .yml"),
]


@pytest.mark.parametrize(("changes", "content", "expected"), DATA)
def test_what_the_data_s_first_rows_tell(
    settings: Settings, shape: ModelShape, tmp_path: Path, changes: dict[str, Any], content: bytes | None,
    expected: str,
) -> None:  # fmt: skip
    file = tmp_path / "rows.jsonl"
    if content is not None:
        file.write_bytes(content)
    (line,) = problems(_mine(prepare={"source": f"path:{file}", **changes}), settings, shape)
    assert line.startswith("prepare.source: ")
    assert expected in line


def test_json_valid_is_a_metric_where_answers_are_json(
    settings: Settings, shape: ModelShape, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    gate = {"tasks": [{**KEEP, "task": "heldout", "metric": "json_valid"}]}
    recipe = _mine(prepare={"source": f"path:{file}"}, gate=gate)
    file.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    (line,) = problems(recipe, settings, shape)
    assert line.startswith("gate.tasks.0.metric: json_valid is measured where answers are JSON")
    file.write_text(json.dumps({"prompt": "a", "completion": "{}"}) + "\n")
    assert problems(recipe, settings, shape) == []


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("number", "metric number: the expected answer of row 0 of the split has no number"),
        ("{kind: python, path: /nowhere.py}", "metric python: /nowhere.py is not a file"),
        ("{kind: json_schema, path: /nowhere.json}", "metric json_schema, /nowhere.json: cannot be read"),
        ("{kind: json_schema, inline: {type: objekt}}", "inline is not a JSON Schema: type: 'objekt'"),
    ],
)
def test_a_metric_that_can_score_nothing(
    settings: Settings, shape: ModelShape, metric: str, expected: str
) -> None:
    (line,) = problems(load("demo", [f"evaluate.tasks.0.metrics=[exact, fields, {metric}]"]), settings, shape)
    assert line.startswith("evaluate.tasks.0.metrics.2: ")
    assert expected in line


def test_a_topic_that_no_file_has(settings: Settings, shape: ModelShape) -> None:
    (line,) = problems(load("demo", ["prepare.topics=[science, sciense]"]), settings, shape)
    assert "topics: sciense not in the corpus" in line


LENGTHS: list[tuple[list[str], int | None, str]] = [
    (["evaluate.tasks.0.max_new_tokens=2048"], None,
     "evaluate.tasks.0.max_new_tokens: 2048 leave no room for a prompt in evaluate.context_length 2048"),
    (["evaluate.tasks.0.max_new_tokens=512", "deploy.context_length=512"], 512,
     "evaluate.tasks.0.max_new_tokens: 512 leave no room for a prompt in the 512 tokens that the base reads"),
    (["prepare.max_length=1025", "train.max_length=2000", "deploy=null"], 1024,
     "prepare.max_length: 1,025, and the base reads at most 1,024 tokens: longer rows could not be trained "
     "on or measured; set it to 1024 or less"),
    (["deploy.context_length=4097"], 4096,
     "deploy.context_length: 4,097, and the base reads at most 4,096 tokens; set it to 4096 or less"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "positions", "expected"), LENGTHS)
def test_lengths_beyond_what_the_base_reads(
    overrides: list[str], positions: int | None, expected: str
) -> None:
    assert list(lengths.problems(load("demo", overrides), positions)) == [expected]


def test_lengths_that_fit_are_no_problem() -> None:
    """An evaluation's context ends with the model's own, and no row is as long as `train.max_length`."""
    for overrides, positions in (
        (["evaluate.context_length=8192", "deploy.context_length=4096"], 4096),
        (["deploy.context_length=100000"], None),
        (["prepare.max_length=512", "train.max_length=600", "deploy.context_length=512"], 512),
    ):
        assert list(lengths.problems(load("demo", overrides), positions)) == []


def test_the_base_s_positions_are_asked_of_its_configuration(settings: Settings, shape: ModelShape) -> None:
    assert shape.positions == 2048
    (line,) = problems(load("pico-smoke", ["deploy.context_length=2049"]), settings, shape)
    assert line.startswith("deploy.context_length: 2,049, and the base reads at most 2,048 tokens")


def test_more_answers_than_a_choice_can_compare(
    settings: Settings, shape: ModelShape, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    task = {"kind": "heldout", "choice": True}
    recipe = _mine(prepare={"source": f"path:{file}"}, evaluate={"tasks": [task]})
    for distinct, count in ((100, 1), (70, 0)):
        rows = ({"prompt": f"a {k}", "completion": f"b {k % distinct}"} for k in range(120))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = problems(recipe, settings, shape)
        assert len(found) == count, found
    rows = ({"prompt": f"a {k}", "completion": f"b {k}"} for k in range(120))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = problems(recipe, settings, shape)
    assert line == (
        "evaluate.tasks.0.choice: compares at most 64 distinct answers, and the first rows alone have 100; "
        "set it to false"
    )
    few = recipe.model_copy(update={"prepare": recipe.prepare.model_copy(update={"max_rows": 60})})
    assert problems(few, settings, shape) == []


def _mine(**sections_: Any) -> Recipe:
    known = {"name": "mine", "base": {"source": "pico:0"}, "prepare": {"source": "path:x"}}
    return Recipe.model_validate({**known, **sections_})


def test_what_the_base_s_sizes_and_files_tell(tmp_path: Path, shape: ModelShape) -> None:
    gptq = {"method": "gptq", "group_size": 128}
    odd = ModelShape(**{**vars(shape), "intermediate": 96})
    (line,) = base.problems(_mine(quantize=[gptq]), odd)
    assert line == (
        "quantize.0.group_size: 128 does not divide the rows of down_proj (96 weights); set it to 32 or -1"
    )
    assert list(base.problems(_mine(quantize=[gptq]), shape)) == []
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"auto_map": {}, "quantization_config": {"quant_method": "gptq"}})
    )
    recipe = _mine(base={"source": f"path:{folder}"})
    found = list(base.problems(recipe, shape))
    assert ["auto_map" in found[0], "(gptq)" in found[1], "no tokenizer_config" in found[2]] == [True] * 3
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    (line,) = base.problems(recipe, shape)
    assert "its tokenizer has no chat template" in line
    template = tmp_path / "chat.jinja"
    with_template = _mine(base={"source": f"path:{folder}", "chat_template": str(template)})
    assert "cannot be read as UTF-8" in next(base.problems(with_template, shape))
    template.write_text("{% for x in %}")
    assert "is not a Jinja template" in next(base.problems(with_template, shape))
    template.write_text(
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    assert list(base.problems(with_template, shape)) == []


FAMILIES = [
    ("gptj", "GPTJForCausalLM", {"method": "gguf"}, "quantize.0: llama.cpp's converter does not know "
     "GPTJForCausalLM; use method: gptq, or take the section out"),
    ("olmo", "OlmoForCausalLM", {"method": "gptq"}, "quantize.0: model_type olmo cannot be quantized with "
     "GPTQ here (GPTQModel does not know this family); use method: gguf, or take the section out"),
    ("biogpt", "BioGptForCausalLM", {"method": "gguf"}, "quantize.0: llama.cpp's converter does not know "
     "BioGptForCausalLM; take the section out: what is merged can be served by vLLM"),
    ("gemma3", "Gemma3ForConditionalGeneration", {"method": "gguf"}, "base.source: its architecture is "
     "Gemma3ForConditionalGeneration, not a causal language model such as LlamaForCausalLM; choose another "
     "base"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "architecture", "method", "expected"), FAMILIES)
def test_what_the_base_s_family_cannot_be_put_through(
    family: str, architecture: str, method: dict[str, Any], expected: str, shape: ModelShape
) -> None:
    of_family = replace(shape, family=family, architecture=architecture)
    assert list(base.problems(_mine(quantize=[method]), of_family)) == [expected]


def test_gptq_s_rows_are_those_of_the_family_s_own_layers(shape: ModelShape) -> None:
    recipe = _mine(quantize=[{"method": "gptq", "group_size": 64}])
    mixture = replace(shape, family="mixtral", architecture="MixtralForCausalLM", experts=4, expert_width=96)
    (line,) = base.problems(recipe, mixture)
    assert "64 does not divide the rows of experts.down_proj (96 weights); set it to 32 or -1" in line
    gpt2 = replace(shape, family="gpt2", architecture="GPT2LMHeadModel", intermediate=96)
    (line,) = base.problems(recipe, gpt2)
    assert "the rows of mlp.c_proj (96 weights)" in line


def test_an_adapter_for_llama_cpp_needs_a_family_that_it_knows(shape: ModelShape) -> None:
    gptj = replace(shape, family="gptj", architecture="GPTJForCausalLM")
    (line,) = base.problems(load("pico-tenant"), gptj)
    expected = "llama.cpp's converter does not know GPTJForCausalLM; set it to 16bit, which vLLM serves"
    assert line == f"adapter.base: {expected}"


def test_what_only_the_libraries_know(tmp_path: Path) -> None:
    """Module names, a rank, a task of lm-eval that is not there, and one whose metric is another."""
    task = {
        "task": "colours", "dataset_path": "json", "dataset_kwargs": {"data_files": "colours.jsonl"},
        "test_split": "train", "output_type": "multiple_choice", "doc_to_text": "{{q}}",
        "doc_to_choice": ["red", "blue"], "doc_to_target": "a", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(task))
    (tmp_path / "colours.jsonl").write_text('{"q": "sky", "a": 1}\n')
    named = {"kind": "lm-eval", "name": "colours", "path": str(tmp_path), "cluster": "passage"}
    recipe = _mine(
        train={"lora": {"rank": 512, "target_modules": ["q_proj", "vv_proj"], "modules_to_save": ["heads"]}},
        evaluate={"tasks": [named, {**named, "name": "colour"}]},
    )
    answer = base.ask(recipe, "llama")
    assert answer.metrics == {"colours": ("acc",)}
    said = "\n".join(answer.problems)
    for expected in (
        "train.lora.modules_to_save: 'heads' matches no module",
        "train.lora.target_modules: 'vv_proj' matches no layer of LlamaForCausalLM; nearest: v_proj",
        "train.lora.rank: 512 is more than the narrower side of every layer that gets an adapter (at most",
        "evaluate.tasks.1: task colour cannot be loaded",
        "evaluate.tasks.0: task colours: cluster is 'passage', but its documents have q, a",
    ):
        assert expected in said
    assert len(answer.problems) == 5
    gated = recipe.model_copy(update={"gate": policy(task="colours", metric="acc_norm")})
    found = list(sections.problems(gated, sections.task_metrics(gated, answer.metrics)))
    assert "gate.tasks.0.metric: 'acc_norm' is not a metric of the task colours" in found[0]


def test_packing_is_tried_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some families keep packed rows apart on any machine, others nowhere: no weights are needed to tell."""
    assert list(rows_mixed("pico:0")) == []
    for family, expected in (
        ("gemma3_text", None), ("gpt2", None), ("bloom", "set train.packing: false"),
        ("mpt", "MptForCausalLM takes no positions, so packed rows would read each other"),
    ):  # fmt: skip
        folder = tmp_path / family
        config_of(family).save_pretrained(folder)
        found = list(rows_mixed(f"path:{folder}"))
        assert len(found) == (expected is not None), (family, found)
        assert not found or (found[0].startswith("train.packing: ") and expected in found[0])
    jobs: list[Any] = []
    monkeypatch.setattr(base, "_child", lambda job: jobs.append(job) or base.LibraryAnswer(("said",)))
    assert base.ask(load("demo", ["train.packing=true"]), "llama").problems == ("said",)
    assert (jobs[0]["packing"], jobs[0]["lora"], jobs[0]["tasks"]) == (True, None, {})


def test_nothing_is_asked_of_the_libraries_that_the_recipe_does_not_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "_child", lambda job: pytest.fail("a child was started"))
    assert base.ask(load("demo"), "") == base.LibraryAnswer()


def test_an_engine_that_is_not_there_and_a_port_that_is_taken(
    settings: Settings, shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["promote.candidate=gptq-4bit", "deploy.engine=vllm"]
    (line,) = problems(load("demo", overrides), settings, shape)
    assert line.startswith("deploy.engine: engine vllm: there is no ")
    monkeypatch.setattr(surroundings, "python_with_vllm", lambda: "python")
    monkeypatch.setattr(tool_parsers, "parsers_of", lambda python: frozenset({"hermes"}))
    (line,) = problems(load("demo", [*overrides, "deploy.tool_call_parser=hermse"]), settings, shape)
    assert line == "deploy.tool_call_parser: vLLM has no 'hermse' there; set one of hermes"
    assert problems(load("demo", [*overrides, "deploy.tool_call_parser=hermes"]), settings, shape) == []
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        (line,) = problems(load("demo", [f"deploy.port={port}"]), settings, shape)
    assert line.startswith(f"deploy.port: cannot listen on {port}")
    monkeypatch.setattr(socket.socket, "bind", _no_such_address)
    (line,) = problems(load("demo", ["deploy.host=::1"]), settings, shape)
    assert line == "deploy.host: cannot listen on ::1 (no such address); set it to 127.0.0.1"


def _no_such_address(*_: Any) -> None:
    raise OSError(99, "no such address")


def test_layers_of_gpt_2_are_known_by_name(tmp_path: Path) -> None:
    """They are no `Linear` in the base, and become one when it is quantized."""
    config_of("gpt2").save_pretrained(tmp_path)
    found = LoraConfig(target_modules=("c_attn", "c_attnn"))
    (line,) = layers_amiss(f"path:{tmp_path}", found)
    assert line.startswith(
        "train.lora.target_modules: 'c_attnn' matches no layer of GPT2LMHeadModel; nearest: c_attn"
    )


def test_a_channel_with_another_policy_and_a_registry_out_of_reach(
    settings: Settings, shape: ModelShape, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Registry.open(settings.root) as registry:
        registry.channels.set_policy("demo/prod", policy().model_dump(mode="json"), "ada", "a test")
        lineage = Lineage(registry)
        assert lineage.gguf
    (line,) = problems(load("demo"), settings, shape)
    assert line.startswith("promote.channel: channel demo/prod has another policy than this one")
    assert "\n" not in line
    monkeypatch.setenv("TUNELINE_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    (line,) = problems(load("demo"), Settings(), shape)
    assert line.startswith("the registry: ")
    monkeypatch.delenv("TUNELINE_DATABASE_URL")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "file" / "home"))
    (line,) = problems(load("demo"), Settings(), shape)
    assert line.startswith("TUNELINE_HOME: ")


def test_an_adapter_to_go_on_from_that_is_not_there(settings: Settings, shape: ModelShape) -> None:
    recipe = load("demo", [*ALONE, "train.method=dpo", "train.dpo.start=support"])
    assert "train.dpo.start: support: no registry is in" in "\n".join(problems(recipe, settings, shape))
    with Registry.open(settings.root) as registry:
        lineage = Lineage(registry)
        dataset = lineage.dataset
    assert "train.dpo.start: " in "\n".join(problems(recipe, settings, shape))
    recipe = load("demo", [*ALONE, "train.method=dpo", f"train.dpo.start={dataset.id}"])
    lines = problems(recipe, settings, shape)
    assert any(line.endswith("is a dataset; expected an adapter, `sft` or `base`") for line in lines), lines


def test_a_package_that_is_not_installed(
    settings: Settings, shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {"gptqmodel", "peft"}
    monkeypatch.setattr(
        "flows.preflight.surroundings.find_spec", lambda name: None if name in absent else object()
    )
    (line,) = problems(load("demo"), settings, shape)
    assert line.startswith("this environment lacks peft, gptqmodel: ")
    (line,) = problems(load("pico-smoke"), settings, shape)
    assert line.startswith("this environment lacks peft: ")


def test_check_shows_all_of_them_and_run_starts_nothing(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["gate.tasks.0.task=rouge", "prepare.source=path:nowhere.jsonl", "prepare.split.test=0"]
    words = [word for one in wrong for word in ("--set", one)]
    assert cli.main(["check", "demo", *words]) == 3
    said = capsys.readouterr().out
    assert said.startswith("demo: cannot work as it is; estimates")
    assert sum(line.startswith("Problem: ") for line in said.splitlines()) == 3
    assert "This machine has what the recipe needs" not in said
    assert cli.main(["check", "demo", "--json", *words]) == 3
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 3
    with pytest.raises(InvalidRecipe, match="demo: 3 problems, found before anything was done:") as caught:
        execute(load("demo", wrong), settings)
    assert len(str(caught.value).splitlines()) == 4
    assert not settings.root.exists()


def test_a_base_that_is_not_there_is_one_problem_among_others(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", "base.source=path:nowhere", "--set", "gate.tasks.0.task=rouge"]
    assert cli.main(["check", "demo", *words]) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("demo: cannot work as it is")
    assert [line.split(" ")[1] for line in said if line.startswith("Problem: ")] == [
        "base.source:", "gate.tasks.0.task:",
    ]  # fmt: skip


def test_what_practice_says_of_documents_stops_nothing() -> None:
    text = [*ALONE, *TEXT]
    told = list(remarks(load("demo", text)))
    assert [line.split(":")[0].split(" ")[0] for line in told] == [
        "Documents", "train.learning_rate", "train.packing", "Embeddings",
    ]  # fmt: skip
    calm = ["train.learning_rate=5e-5", "train.packing=true", "train.lora.modules_to_save=[lm_head]"]
    mixed = [*calm, "prepare.mix=[{source: 'path:b.jsonl'}]"]
    assert list(remarks(load("demo", [*text, *mixed]))) == []
    assert list(remarks(load("demo", []))) == []
