"""Evaluation: engines that agree with lm-eval's own model, items that can be paired, errors that say why."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from flows.gates.gate import GatePolicy, decide, load_evidence
from registry.errors import Incompatible
from stages.backends.chat import control_tokens, load_tokenizer, render
from stages.backends.evaluate import heldout
from stages.backends.evaluate.llama_cpp_lm import LlamaCppLM
from stages.backends.evaluate.lm_eval_tasks import run_task, summarize
from stages.backends.evaluate.token_lm import Row, TokenLM
from stages.backends.evaluate.torch_lm import TorchLM
from stages.config.evaluate import EvaluateConfig, HeldoutTask, LmEvalTask
from stages.config.train import Nf4Config
from stages.contract import Facts, Parent
from stages.errors import Diverged, InvalidInput, StageError
from stages.evaluate import evaluate
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from stages.quantize import quantize

SYSTEM = "Name the topic."
TOPICS = ("food", "history", "computers", "tech_support", "sports")
NF4 = Nf4Config(compute_dtype="float32")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than a pico model's products take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def answer(topic: str) -> str:
    return json.dumps({"topic": topic})


def chat(k: int, said: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Tell me about {' and '.join(['thing'] * (k % 4 + 1))} number {k}."},
        {"role": "assistant", "content": said},
    ]


def write_dataset(folder: Path, rows: Sequence[list[dict[str, str]]]) -> Parent:
    folder.mkdir()
    columns = {"messages": list(rows), "prompt_hash": [str(i) for i in range(len(rows))]}
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return Parent(id=hashlib.sha256(folder.name.encode()).hexdigest(), kind="dataset", path=folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    rows = [chat(k, answer(TOPICS[k % len(TOPICS)])) for k in range(20)]
    return write_dataset(tmp_path_factory.mktemp("data") / "routing", rows)


@pytest.fixture(scope="module")
def pico_gguf(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    folder = tmp_path_factory.mktemp("gguf")
    facts = quantize({"model": pico_base}, GgufConfig(type="F16"), folder)
    return Parent(
        id="9" * 64, kind="quantized", path=folder, base=facts.base, quant=facts.quant, metrics=facts.metrics
    )


@pytest.fixture(scope="module")
def pico_gptq(pico_base: Parent, dataset: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    folder = tmp_path_factory.mktemp("gptq")
    given = GptqConfig(group_size=64, calibration_rows=8)
    facts = quantize({"model": pico_base, "dataset": dataset}, given, folder)
    return Parent(
        id="8" * 64, kind="quantized", path=folder, base=facts.base, quant=facts.quant, metrics=facts.metrics
    )


@pytest.fixture(scope="module")
def pico_adapter(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """An adapter that changes every answer: B is not zero."""
    folder = tmp_path_factory.mktemp("adapter")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(pico_base.path, dtype=torch.float32)
        config = peft.LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
        peft.get_peft_model(model, config).save_pretrained(folder)
    return Parent(id="7" * 64, kind="adapter", path=folder, base=pico_base.base)


def settings(tokenizer: Any, batch_size: int = 4) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "stop_ids": frozenset(control_tokens(tokenizer)),
        "rendered": True,
    }


@pytest.fixture(scope="module")
def torch_lm(pico_base: Parent) -> TorchLM:
    tokenizer = load_tokenizer(pico_base.path)
    model = AutoModelForCausalLM.from_pretrained(pico_base.path, dtype=torch.float32)
    return TorchLM(model, tokenizer, max_length=512, **settings(tokenizer))


@pytest.fixture(scope="module")
def llama_lm(pico_base: Parent, pico_gguf: Parent) -> LlamaCppLM:
    tokenizer = load_tokenizer(pico_base.path)
    return LlamaCppLM(pico_gguf.path / "model.gguf", tokenizer, context_length=512, **settings(tokenizer))


def pairs(tokenizer: Any) -> list[tuple[str, str]]:
    """Contexts of several lengths with a shared beginning, each with one-token and longer continuations."""
    prompts = [render(tokenizer, chat(k, "")[:-1], add_generation_prompt=True) for k in range(7)]
    return [(prompt + '{"topic": "', end) for prompt in prompts for end in (*TOPICS, "food and history")]


def instances(kind: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, argument, 0) for argument in arguments]


@pytest.fixture(scope="module")
def hflm(torch_lm: TorchLM) -> HFLM:
    return HFLM(pretrained=torch_lm.model, tokenizer=torch_lm.tokenizer, batch_size=1, max_length=512)


def test_torch_scores_equal_those_of_lm_eval(torch_lm: TorchLM, hflm: HFLM) -> None:
    requests = pairs(torch_lm.tokenizer)
    ours = torch_lm.loglikelihood(instances("loglikelihood", requests), disable_tqdm=True)
    theirs = hflm.loglikelihood(instances("loglikelihood", requests), disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [s for s, _ in ours] == pytest.approx([s for s, _ in theirs], abs=2e-4)


def test_torch_answers_equal_those_of_lm_eval(torch_lm: TorchLM, hflm: HFLM) -> None:
    prompts = sorted({context for context, _ in pairs(torch_lm.tokenizer)})
    stop = torch_lm.generate_until(instances("generate_until", [(p, {"max_gen_toks": 12}) for p in prompts]))
    middle = stop[0][len(stop[0]) // 2 :][:3]
    wanted = {"until": [middle], "max_gen_toks": 12, "do_sample": False}
    requests = instances("generate_until", [(prompt, wanted) for prompt in prompts])
    ours = torch_lm.generate_until(requests)
    assert ours == hflm.generate_until(requests, disable_tqdm=True)
    assert middle not in ours[0]
    assert stop[0].startswith(ours[0])


def test_rolling_scores_equal_those_of_lm_eval(torch_lm: TorchLM, hflm: HFLM) -> None:
    texts = [("one two three " * 60,), ("A short text.",)]
    small = TorchLM(torch_lm.model, torch_lm.tokenizer, max_length=64, **settings(torch_lm.tokenizer))
    theirs = HFLM(pretrained=torch_lm.model, tokenizer=torch_lm.tokenizer, batch_size=1, max_length=64)
    ours = small.loglikelihood_rolling(instances("loglikelihood_rolling", texts))
    found = theirs.loglikelihood_rolling(instances("loglikelihood_rolling", texts), disable_tqdm=True)
    assert ours == pytest.approx(found, rel=1e-4)


def test_llama_cpp_gives_true_likelihoods(torch_lm: TorchLM, llama_lm: LlamaCppLM) -> None:
    requests = instances("loglikelihood", pairs(torch_lm.tokenizer))
    ours = [score for score, _ in torch_lm.loglikelihood(requests, disable_tqdm=True)]
    llama = [score for score, _ in llama_lm.loglikelihood(requests, disable_tqdm=True)]
    assert llama == pytest.approx(ours, abs=0.05)
    text = [("one two three " * 30,)]
    rolling = [
        lm.loglikelihood_rolling(instances("loglikelihood_rolling", text)) for lm in (torch_lm, llama_lm)
    ]
    assert rolling[1] == pytest.approx(rolling[0], rel=1e-3)


def test_llama_cpp_tokenizes_rendered_chats_like_the_base(torch_lm: TorchLM, llama_lm: LlamaCppLM) -> None:
    texts = {context + end for context, end in pairs(torch_lm.tokenizer)}
    assert all(torch_lm.tok_encode(text) == llama_lm.tok_encode(text) for text in texts)


def test_sharing_and_batching_change_no_score(torch_lm: TorchLM, llama_lm: LlamaCppLM) -> None:
    for lm, tolerance in ((torch_lm, 2e-4), (llama_lm, 2e-2)):
        requests = pairs(lm.tokenizer)[::3]
        together = lm.loglikelihood(instances("loglikelihood", requests), disable_tqdm=True)
        alone = []
        for request in reversed(requests):
            lm._beginning = lm._beginning[:0] if lm is torch_lm else lm._beginning
            alone += lm.loglikelihood(instances("loglikelihood", [request]), disable_tqdm=True)
        assert [s for s, _ in together] == pytest.approx([s for s, _ in reversed(alone)], abs=tolerance)


def test_probabilities_of_all_next_tokens_add_up_to_one(llama_lm: LlamaCppLM) -> None:
    context = tuple(llama_lm.tok_encode(pairs(llama_lm.tokenizer)[0][0]))
    every = [(("", ""), list(context), [token]) for token in range(llama_lm._width)]
    scores = llama_lm._loglikelihood_tokens(every)
    assert math.fsum(math.exp(score) for score, _ in scores) == pytest.approx(1, abs=1e-4)
    assert sum(greedy for _, greedy in scores) == 1


class ScriptedLM(TokenLM):
    """Answers each prompt as it is told to, then ends its turn; knows nothing else."""

    def __init__(self, tokenizer: Any, script: dict[str, str], batch_size: int = 3) -> None:
        super().__init__(tokenizer, max_length=256, **settings(tokenizer, batch_size))
        self.script = [self._tokenize(p, False) + self._tokenize(a, False) for p, a in script.items()]
        self.rows: list[Row] = []

    def _tokenize(self, text: str, special: bool) -> Row:
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def tok_decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _next(self, row: Row) -> torch.Tensor:
        logits = torch.zeros(len(self.tokenizer))
        fitting = [told[len(row)] for told in self.script if told[: len(row)] == row and len(told) > len(row)]
        logits[fitting[0] if fitting else self.tokenizer.eos_token_id] = 20
        return logits

    def _read(self, rows: Sequence[Row]) -> torch.Tensor:
        self.rows = list(rows)
        return torch.stack([self._next(row) for row in self.rows])

    def _add(self, kept: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        return self._read([(*self.rows[place], token) for place, token in zip(kept, tokens, strict=True)])

    def _branch(self, parents: Sequence[int], rows: Sequence[Row]) -> list[torch.Tensor]:
        return [
            torch.stack([self._next(self.rows[parent] + row[: end + 1]) for end in range(len(row))])
            for parent, row in zip(parents, rows, strict=True)
        ]


def scripted(pico_base: Parent, rows: Sequence[list[dict[str, str]]], answers: Sequence[str]) -> ScriptedLM:
    tokenizer = load_tokenizer(pico_base.path)
    prompts = [render(tokenizer, row[:-1], add_generation_prompt=True) for row in rows]
    return ScriptedLM(tokenizer, dict(zip(prompts, answers, strict=True)))


def test_scores_are_those_of_the_answers(pico_base: Parent, tmp_path: Path) -> None:
    rows = [chat(k, answer(TOPICS[k % 5])) for k in range(10)]
    told = [row[-1]["content"] for row in rows]
    told[0] = f"  {told[0]}\n"  # right: white space at the ends does not count
    told[1] = answer("sports")  # wrong, and JSON
    told[2] = '{"topic": "computers'  # wrong as text, right as the likeliest answer, no JSON
    lm = scripted(pico_base, rows, told)
    task = HeldoutTask(name="routing", choice=True, max_new_tokens=24)
    said = run_task(lm, task, write_dataset(tmp_path / "data", rows), 0, tmp_path)
    values = {metric: found["value"] for metric, found in said["metrics"].items()}
    assert values == {"exact_match": 0.8, "json_valid": 0.9, "choice_acc": 0.8}
    assert said["metrics"]["exact_match"]["n"] == 10
    samples = [json.loads(line) for line in (tmp_path / said["samples"]).read_text().splitlines()]
    assert [s["score"] for s in samples] == [1, 0, 0] + [1] * 7
    assert samples[1]["answer"] == answer("sports")
    assert samples[1]["target"] == answer("history")
    assert said["choice"]["prefix"] == '{"topic": "'
    assert said["choice"]["suffix"] == '"}'


def test_choices_that_begin_one_another_are_compared_with_their_end(
    pico_base: Parent, tmp_path: Path
) -> None:
    rows = [chat(k, said) for k, said in enumerate(["food", "food court", "food", "food court"])]
    told = [row[-1]["content"] for row in rows]
    lm = scripted(pico_base, rows, told)
    answers = heldout._distinct_answers(write_dataset(tmp_path / "data", rows).path, rows[0], lm)
    assert answers.suffix == ""
    assert all(middle.endswith("<|im_end|>") for middle in answers.compared)
    task = HeldoutTask(choice=True)
    said = run_task(lm, task, Parent(id="d" * 64, kind="dataset", path=tmp_path / "data"), 0, tmp_path)
    assert said["metrics"]["choice_acc"]["value"] == 1


def config(**given: Any) -> EvaluateConfig:
    task = HeldoutTask(name="routing", choice=True, max_new_tokens=6)
    return EvaluateConfig.model_validate(
        {"tasks": (task,), "batch_size": 8, "compute_dtype": "float32", **given}
    )


def run(tmp_path: Path, name: str, parents: dict[str, Parent], given: EvaluateConfig) -> tuple[Facts, Path]:
    out = tmp_path / name
    out.mkdir()
    return evaluate(parents, given, out), out


def test_every_kind_of_model_is_measured_on_the_same_items(
    tmp_path: Path,
    pico_base: Parent,
    pico_adapter: Parent,
    pico_gguf: Parent,
    pico_gptq: Parent,
    dataset: Parent,
) -> None:
    both = {"model": pico_base, "dataset": dataset}
    nf4, asked = config(nf4=NF4, questions=("Who?", "What?")), config()
    runs = {
        "nf4": run(tmp_path, "nf4", both, nf4),
        "tuned": run(tmp_path, "tuned", {**both, "adapter": pico_adapter}, nf4),
        "16-bit": run(tmp_path, "16-bit", both, asked),
        "gptq": run(tmp_path, "gptq", {"model": pico_gptq, "base": pico_base, "dataset": dataset}, asked),
        "gguf": run(tmp_path, "gguf", {"model": pico_gguf, "base": pico_base, "dataset": dataset}, asked),
    }
    seen = {name: load_evidence(out, name) for name, (_, out) in runs.items()}
    assert [evidence.problems for evidence in seen.values()] == [()] * 5
    policy = GatePolicy.model_validate(
        {
            "tasks": [
                {
                    "task": "routing",
                    "metric": "exact_match",
                    "role": "keep",
                    "against": "baseline",
                    "margin": 0.9,
                }
            ]
        }
    )
    for evidence in seen.values():
        decision = decide(policy, evidence, {"baseline": seen["nf4"]})
        assert (decision.verdict, decision.rules[0].n) == ("pass", 20)
    assert [evidence.subject for evidence in seen.values()] == [
        pico_base.id, pico_adapter.id, pico_base.id, pico_gptq.id, pico_gguf.id,
    ]  # fmt: skip
    answers = {name: json.loads((out / "answers.json").read_text()) for name, (_, out) in runs.items()}
    assert [row["question"] for row in answers["nf4"]] == ["Who?", "What?"]
    assert answers["nf4"] != answers["tuned"]
    assert answers["16-bit"] == []


def test_facts_say_what_was_measured(tmp_path: Path, pico_base: Parent, dataset: Parent) -> None:
    parents = {"model": pico_base, "dataset": dataset}
    plain, _ = run(tmp_path, "plain", parents, config())
    packed, _ = run(tmp_path, "packed", parents, config(nf4=NF4))
    found = plain.metrics
    assert plain.kind == "evaluation"
    assert found["measured_on"] == f"routing: 20 items of the test split of dataset {dataset.id[:12]}"
    assert found["computed_with"].startswith("bfloat16 weights, computed in float32 with transformers")
    assert found["bytes"] == pico_base.metrics["bytes"]
    assert found["bits_per_weight"] == pytest.approx(16)
    assert packed.metrics["computed_with"].startswith("NF4 with double quantization, computed in float32")
    linear = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512)
    rest = pico_base.metrics["parameters"] - linear
    stored = 2 * rest + 4.13 * linear / 8  # whatever type it is held in to be computed with
    assert packed.metrics["bytes"] == pytest.approx(stored, rel=0.001)
    bits = 8 * stored / pico_base.metrics["parameters"]
    assert packed.metrics["bits_per_weight"] == pytest.approx(bits, rel=0.001)
    assert bits < 16, "the embedding is most of this model, and stored in 16 bits"
    metric = found["tasks"]["routing"]["exact_match"]
    assert {"value", "low", "high", "n"} <= metric.keys()
    assert (metric["low"], metric["n"]) == (0.0, 20)


def test_nf4_is_measured_with_its_own_values(tmp_path: Path, pico_base: Parent, dataset: Parent) -> None:
    """The dense layers used on a CPU hold what the packed ones hold, rounded to bfloat16 as in training."""
    from stages.backends.evaluate.open_model import open_model
    from stages.backends.nf4 import load_nf4

    measured = open_model({"model": pico_base, "dataset": dataset}, config(nf4=NF4)).lm
    packed = TorchLM(
        load_nf4(pico_base.path, NF4, "packed"),
        measured.tokenizer,
        max_length=512,
        **settings(measured.tokenizer),
    )
    requests = instances("loglikelihood", pairs(measured.tokenizer))
    ours, theirs = [
        [s for s, _ in lm.loglikelihood(requests, disable_tqdm=True)] for lm in (measured, packed)
    ]
    assert ours == pytest.approx(theirs, abs=0.01)


def test_gptq_is_measured_with_its_own_values(pico_gptq: Parent, torch_lm: TorchLM) -> None:
    """Dense layers in float32 against GPTQModel's kernel in float16, which dequantizes at every call."""
    from gptqmodel import BACKEND, GPTQModel

    from stages.backends.evaluate.open_model import open_model

    with torch.compiler.set_stance("fail_on_recompile"):  # to compile takes long, and may go wrong
        measured = open_model({"model": pico_gptq}, config())
    kernel = GPTQModel.load(
        str(pico_gptq.path), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16
    ).model
    packed = TorchLM(kernel, torch_lm.tokenizer, max_length=512, **settings(torch_lm.tokenizer))
    requests = instances("loglikelihood", pairs(torch_lm.tokenizer)[:12])
    with torch.compiler.set_stance(
        "force_eager"
    ):  # nor is the library's kernel compiled, whose cache is shared
        ours, theirs, parents = [
            [score for score, _ in lm.loglikelihood(requests)] for lm in (measured.lm, packed, torch_lm)
        ]
    assert ours == pytest.approx(theirs, abs=0.003)
    assert max(abs(a - b) for a, b in zip(ours, parents, strict=True)) > 0.01, "nothing was quantized"
    assert "float16 scales, computed in float32" in measured.description


def test_a_second_evaluation_writes_the_same_bytes(
    tmp_path: Path, pico_base: Parent, dataset: Parent
) -> None:
    parents = {"model": pico_base, "dataset": dataset}
    (first, one), (second, two) = (run(tmp_path, name, parents, config()) for name in ("one", "two"))
    assert first == second
    assert sorted(f.name for f in one.iterdir()) == ["answers.json", "results.json", "samples_routing.jsonl"]
    assert all(file.read_bytes() == (two / file.name).read_bytes() for file in one.iterdir())


@pytest.fixture
def local_task(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"{k} + 1 =", "choices": [str(k), str(k + 1)], "answer": 1} for k in range(6)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: sums.jsonl}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: choices\n'
        "doc_to_target: answer\nmetric_list:\n"
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    )
    return folder


def test_a_local_yaml_task(tmp_path: Path, pico_base: Parent, local_task: Path) -> None:
    task = LmEvalTask(name="sums", path=str(local_task), limit=5, fewshot=1, cluster="answer")
    facts, out = run(tmp_path, "out", {"model": pico_base}, config(tasks=(task,)))
    said = json.loads((out / "results.json").read_text())["tasks"]["sums"]
    assert facts.metrics["tasks"]["sums"]["acc"]["n"] == 5
    assert (said["limit"], said["fewshot"], said["metric"]) == (5, 1, "acc")
    assert said["chat_template_applied_by"] == "lm-eval"
    assert load_evidence(out, "e").problems == ()
    rows = [json.loads(line) for line in (out / said["samples"]).read_text().splitlines()]
    assert [row["asked"] for row in rows] == [f"{k} + 1 =" for k in range(5)], "without the few-shot example"
    assert len({row["cluster"] for row in rows}) == 1, "all answers are the second choice"
    with pytest.raises(InvalidInput, match="cluster is 'passage', but its documents have question, choices"):
        run(
            tmp_path, "none", {"model": pico_base},
            config(tasks=(task.model_copy(update={"cluster": "passage"}),)),
        )  # fmt: skip
    with pytest.raises(InvalidInput, match="no score per item for f1"):
        run(
            tmp_path, "other", {"model": pico_base}, config(tasks=(task.model_copy(update={"metric": "f1"}),))
        )


def test_a_task_that_cannot_be_had_offline_is_named(
    tmp_path: Path, pico_base: Parent, local_task: Path
) -> None:
    for task in (
        LmEvalTask(name="sume", path=str(local_task)),
        LmEvalTask(name="sums", path=str(tmp_path / "no")),
    ):
        with pytest.raises(InvalidInput, match=rf"task {task.name}|no is not a directory"):
            run(tmp_path, task.name, {"model": pico_base}, config(tasks=(task,)))
    (local_task / "sums.jsonl").unlink()
    with pytest.raises(InvalidInput, match="task sums cannot be loaded"):
        run(
            tmp_path,
            "gone",
            {"model": pico_base},
            config(tasks=(LmEvalTask(name="sums", path=str(local_task)),)),
        )


def test_an_item_longer_than_the_context_is_named(tmp_path: Path, pico_base: Parent) -> None:
    long = chat(0, "x")
    long[1]["content"] = "word " * 300
    data = write_dataset(tmp_path / "long", [chat(1, "x"), long])
    given = EvaluateConfig(tasks=(HeldoutTask(),), context_length=256)
    with pytest.raises(InvalidInput, match=r"item with prompt \w{12}.*needs \d+ tokens.*holds 256"):
        run(tmp_path, "out", {"model": pico_base, "dataset": data}, given)
    assert list((tmp_path / "out").iterdir()) == []


def test_damaged_weights_are_not_measured(tmp_path: Path, pico_base: Parent, dataset: Parent) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(pico_base.path, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    model = pico_base.model_copy(update={"path": broken})
    with pytest.raises(Diverged, match="NaN or infinite logits"):
        run(tmp_path, "out", {"model": model, "dataset": dataset}, config())


def test_combinations_that_make_no_sense_are_refused(
    tmp_path: Path, pico_base: Parent, pico_gguf: Parent, pico_adapter: Parent, dataset: Parent
) -> None:
    gguf = {"model": pico_gguf, "base": pico_base, "dataset": dataset}
    assert pico_base.base is not None
    other = pico_base.base.model_copy(update={"weights_digest": "0" * 64})
    retokenized = pico_base.base.model_copy(update={"tokenizer_digest": "0" * 64})
    stranger = pico_base.model_copy(update={"base": retokenized})
    bare, foreign = {"model": pico_base}, pico_adapter.model_copy(update={"base": other})
    cases: list[tuple[dict[str, Parent], EvaluateConfig, type[Exception], str]] = [
        ({"model": pico_gguf}, config(), InvalidInput, "needs its base beside it"),
        (gguf, config(nf4=NF4), InvalidInput, "already quantized .GGUF., but nf4 is set"),
        (
            {**gguf, "adapter": pico_adapter},
            config(),
            InvalidInput,
            "already quantized .GGUF., but a PEFT adapter",
        ),
        ({"model": dataset}, config(), InvalidInput, "holds no model that can be measured"),
        (bare, config(), InvalidInput, "no prepared dataset was given"),
        ({**bare, "adapter": foreign}, config(), Incompatible, "was trained on"),
        ({**gguf, "base": stranger}, config(), Incompatible, "with another tokenizer"),
    ]
    for number, (parents, given, error, said) in enumerate(cases):
        with pytest.raises(error, match=said):
            run(tmp_path, str(number), parents, given)


def test_a_broken_gguf_is_named(tmp_path: Path, pico_base: Parent, dataset: Parent) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    model = Parent(id="5" * 64, kind="quantized", path=folder)
    with pytest.raises(InvalidInput, match=r"model\.gguf: llama\.cpp .* cannot load this file"):
        run(tmp_path, "out", {"model": model, "base": pico_base, "dataset": dataset}, config())


def test_too_many_answers_to_choose_from(tmp_path: Path, pico_base: Parent) -> None:
    data = write_dataset(tmp_path / "data", [chat(k, f"answer {k}") for k in range(65)])
    with pytest.raises(InvalidInput, match="2 to 64 distinct answers in the dataset, found 65"):
        run(tmp_path, "out", {"model": pico_base, "dataset": data}, config())


def test_sampling_is_refused(torch_lm: TorchLM) -> None:
    wanted = {"do_sample": True, "temperature": 0.7}
    with pytest.raises(InvalidInput, match="only greedy answers"):
        torch_lm.generate_until(instances("generate_until", [("a", wanted)]))


def test_missing_samples_are_an_error(
    tmp_path: Path, pico_base: Parent, dataset: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import evaluator

    whole = evaluator.evaluate

    def partly(**given: Any) -> Any:
        found = whole(**given)
        found["samples"]["routing"].pop()
        return found

    monkeypatch.setattr(evaluator, "evaluate", partly)
    with pytest.raises(StageError, match="logged 19 of 20 items"):
        run(tmp_path, "out", {"model": pico_base, "dataset": dataset}, config())
    assert not (tmp_path / "out" / "results.json").exists()


def test_summaries_of_scores_that_are_no_shares() -> None:
    found = summarize([0.5, 1.5, 2.5])
    assert (found["value"], found["interval"]) == (1.5, "normal")
    assert found["high"] == pytest.approx(1.5 + 1.96 / math.sqrt(3))
