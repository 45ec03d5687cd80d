from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from flows.exchange.dossier import Dossier, gather
from flows.exchange.model_card import front_matter, model_card, parsed_front_matter
from registry import Artifact, Registry
from registry.artifacts import QuantSpec
from tests.flows.lineages import MODELS, evaluate, family, publish

HOSTILE = 'x"\n---\n```\n| `a` | <script>[l](javascript:x) {{ 7*7 }} \x1b[31m'


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.open(tmp_path_factory.mktemp("cards")) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(registry: Registry) -> dict[str, Artifact]:
    return family(registry)


def dossier(registry: Registry, artifact: Artifact) -> Dossier:
    return gather(registry, artifact.id)[1]


def snippets(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "relation", "library", "tags"),
    [
        ("base", None, "transformers", ["tuneline"]),
        ("adapter", "adapter", "peft", ["tuneline", "lora", "qlora"]),
        ("merged", "merge", "transformers", ["tuneline", "merged"]),
        ("gguf", "quantized", "gguf", ["tuneline", "gguf"]),
        ("gptq", "quantized", "transformers", ["tuneline", "gptq", "4-bit"]),
    ],
)
def test_hugging_face_reads_the_front_matter(
    registry: Registry, made: dict[str, Artifact], caplog: pytest.LogCaptureFixture, name: str,
    relation: str | None, library: str, tags: list[str],
) -> None:  # fmt: skip
    with caplog.at_level(logging.WARNING):
        data = ModelCard(model_card(dossier(registry, made[name]))).data
    assert not caplog.records
    assert data.get("base_model") == (None if name == "base" else "acme/Tiny-1B")
    assert data.get("base_model_relation") == relation
    assert data.to_dict()["library_name"] == library
    assert data.tags == tags
    assert data.get("datasets") == (None if name == "base" else ["acme/chats"])
    assert data.get("license") is None
    (result,) = data.eval_results
    assert (result.task_name, result.metric_type, result.metric_value) == ("routing", "exact_match", 0.625)
    assert result.metric_args["n"] == 231
    assert result.metric_args["confidence_interval_95"] == [0.5, 0.75]
    assert result.metric_args["evaluation"] == made[f"{name} evaluation"].id
    assert (result.dataset_type, result.dataset_revision) == ("acme/chats", "b" * 40)


def test_quantization_stands_in_the_front_matter(registry: Registry, made: dict[str, Artifact]) -> None:
    assert front_matter(dossier(registry, made["gguf"]))["quantization"] == {
        "method": "gguf", "type": "Q8_0", "bits_per_weight": 8.5,
    }  # fmt: skip
    assert front_matter(dossier(registry, made["adapter"]))["quantization"]["quant_type"] == "nf4"
    assert "quantization" not in front_matter(dossier(registry, made["merged"]))


def test_what_is_not_on_the_hub_is_not_named_as_if_it_were(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        made = family(registry, source="package:tiny/tiny.gguf", revision="1.0+" + "c" * 64)
        found = front_matter(dossier(registry, made["merged"]))
        text = model_card(dossier(registry, made["adapter"]))
    assert "base_model" not in found
    assert found["tuneline"]["base"]["source"] == "package:tiny/tiny.gguf"
    assert f"tuneline artifacts export {made['base'].id[:12]}" in text
    assert "is not a repository of the Hugging Face hub" in text


def test_the_page_says_what_a_person_needs(registry: Registry, made: dict[str, Artifact]) -> None:
    text = model_card(dossier(registry, made["gguf"]))
    for needed in (
        made["gguf"].id,
        "a" * 40,
        "| routing | exact_match | 0.625 | 0.5 to 0.75 | 231 |",
        "Measured on routing: 231 items of the test split",
        "**pass** against",
        "routing/exact_match: +6.2 points",
        '"epochs": 2.0',
        "Licence: BSD License",
        "12 rows were read, 2 rejected, 1 dropped as near",
        '"type": "Q8_0"',
        "llama-server --model path/to/this/directory/model.gguf",
        "The licence of the base model: the registry has no record of it.",
    ):
        assert needed in text, needed


def test_an_artifact_without_evaluation_says_so(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        made = family(registry)
        known = dossier(registry, made["merged"])
    bare = Dossier(known.id, known.manifest, known.manifests, (), (), known.published)
    text = model_card(bare)
    assert "Nothing was measured" in text
    assert "No gate has judged this artifact" in text
    assert "model-index" not in text


def test_an_evaluation_of_the_adapter_is_none_of_its_base(
    registry: Registry, made: dict[str, Artifact]
) -> None:
    assert dossier(registry, made["base"]).evaluations == (made["base evaluation"].id,)
    assert dossier(registry, made["adapter"]).evaluations == (made["adapter evaluation"].id,)


@pytest.mark.parametrize("name", MODELS)
def test_the_code_to_copy_is_python(registry: Registry, made: dict[str, Artifact], name: str) -> None:
    found = snippets(model_card(dossier(registry, made[name])))
    assert found
    for code in found:
        tree = ast.parse(code)
        assigned = {t.id: n.value for n in ast.walk(tree) if isinstance(n, ast.Assign)
                    for t in n.targets if isinstance(t, ast.Name)}  # fmt: skip
        messages = ast.literal_eval(assigned["messages"])
        assert messages[-1] == {"role": "user", "content": "Hello!"}
        trained = [] if name == "base" else [{"role": "system", "content": 'Say "hi" in one word.'}]
        assert messages[:-1] == trained


def test_the_pinned_revision_stands_in_the_commands(registry: Registry, made: dict[str, Artifact]) -> None:
    text = model_card(dossier(registry, made["adapter"]))
    assert f'base, revision="{"a" * 40}"' in text
    assert f"vllm serve acme/Tiny-1B --revision {'a' * 40} --enable-lora --max-lora-rank 16" in text


@pytest.mark.parametrize("name", ["adapter", "merged", "gptq"])
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer.model", "vocab.json", None])
def test_a_card_loads_the_tokenizer_from_where_it_is(
    registry: Registry, made: dict[str, Artifact], name: str, file: str | None
) -> None:
    known = dossier(registry, made[name])
    files = known.manifest.files
    manifest = known.manifest.model_copy(
        update={"files": {**files, file: next(iter(files.values()))} if file else files}
    )
    (code,) = snippets(model_card(replace(known, manifest=manifest)))
    assert ("AutoTokenizer.from_pretrained(directory)" in code) == (file is not None)
    of_base = f'AutoTokenizer.from_pretrained(base, revision="{"a" * 40}")'
    assert (of_base in code) == (file is None)
    assert ('base = "acme/Tiny-1B"' in code) == (file is None or name == "adapter")


@pytest.mark.parametrize("present", [True, False])
def test_a_card_takes_the_template_from_the_base_where_the_tokenizer_has_none(
    registry: Registry, made: dict[str, Artifact], present: bool
) -> None:
    known = dossier(registry, made["merged"])
    files = {**known.manifest.files, "tokenizer.json": known.manifest.files["config.json"]}
    quant = QuantSpec(method="none", effective={"chat_template": {"present": present, "sha256": None}})
    manifest = known.manifest.model_copy(update={"files": files, "quant": quant})
    (code,) = snippets(model_card(replace(known, manifest=manifest)))
    assert "tokenizer = AutoTokenizer.from_pretrained(directory)" in code
    assert ("tokenizer.chat_template = AutoTokenizer.from_pretrained(base, revision=" in code) != present


@pytest.mark.parametrize(
    ("asked", "came_out", "expected"),
    [
        ("auto", "float32", "float32"),
        ("auto", "bfloat16", "bfloat16"),
        ("auto", None, "bfloat16"),
        ("float32", None, "float32"),
        ("bfloat16", None, "bfloat16"),
        (None, None, "bfloat16"),
    ],
)
def test_the_nf4_values_are_bfloat16_whatever_computes(
    registry: Registry, made: dict[str, Artifact], asked: str | None, came_out: str | None, expected: str
) -> None:
    known = dossier(registry, made["adapter"])
    requested, effective = (
        {"quant_type": "nf4", **({"compute_dtype": found} if found else {})} for found in (asked, came_out)
    )
    quant = QuantSpec(method="bnb", requested=requested, effective=effective)
    manifest = known.manifest.model_copy(update={"quant": quant})
    (code,) = snippets(model_card(replace(known, manifest=manifest)))
    assert f"bnb_4bit_compute_dtype=torch.{expected}," in code
    assert "quantization_config=nf4, dtype=torch.bfloat16\n" in code


def test_the_card_of_an_adapter_says_whether_it_was_measured_as_vllm_serves_it(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        made = family(registry)
        bare = dossier(registry, made["adapter"])
        measured = (("evaluation_of", made["adapter"]), ("evaluation_of", made["base"]))
        evaluations = (("NF4", {"nf4": {"quant_type": "nf4"}}), ("16 bit", {"nf4": None}))
        nf4, stored = (
            publish(registry, "evaluation", "evaluate", {"results.json": name.encode()}, measured,
                    config=config, metrics={"tasks": {}, "measured_on": name}, base=bare.base)
            for name, config in evaluations
        )  # fmt: skip
        both = dossier(registry, made["adapter"])
    words = "vLLM (over the base as it is stored, not in NF4: {}):"
    assert words.format(f"evaluation {stored.id[:12]}") in model_card(both)
    only = Dossier(both.id, both.manifest, both.manifests, (nf4.id,), (), both.published)
    assert words.format("no evaluation measured that") in model_card(only)


@pytest.mark.parametrize("name", MODELS)
def test_hostile_text_stays_text(tmp_path: Path, name: str) -> None:
    with Registry.open(tmp_path) as registry:
        made = family(registry, source=f"hub:{HOSTILE}", revision=HOSTILE, architecture=HOSTILE)
        known = dossier(registry, made[name])
        text = model_card(known)
    with Registry.open(tmp_path / "honest") as registry:
        honest = dossier(registry, family(registry, source="package:tiny/tiny.gguf")[name])
    data: Any = ModelCard(text).data
    assert data.tuneline["base"]["revision"] == HOSTILE
    assert data.get("base_model") is None
    assert parsed_front_matter(text) == front_matter(known)
    body = text.split("\n---\n", 1)[1]
    assert "\x1b" not in body
    page = MarkdownIt("commonmark").enable("table").render(body)
    assert "<script" not in page
    assert "<a href=" not in page
    assert page.count("<h1>") == 1
    assert page.count("<h2>") == len(re.findall(r"^## ", model_card(honest), re.MULTILINE))
    assert page.count("<td") == MarkdownIt().enable("table").render(model_card(honest)).count("<td")
    for code in snippets(text):
        ast.parse(code)


def test_the_same_artifact_gives_the_same_text(registry: Registry, made: dict[str, Artifact]) -> None:
    assert model_card(dossier(registry, made["gptq"])) == model_card(dossier(registry, made["gptq"]))


def test_a_second_evaluation_is_told_apart(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        made = family(registry)
        later = evaluate(registry, made["merged"], made["dataset"], value=0.75)
        results = ModelCard(model_card(dossier(registry, made["merged"]))).data.eval_results
    assert [(r.metric_value, r.metric_args["evaluation"]) for r in results] == [
        (0.625, made["merged evaluation"].id), (0.75, later.id),
    ]  # fmt: skip


def test_front_matter_of_a_stranger_cannot_explode() -> None:
    bomb = "---\na: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n---\n"
    with pytest.raises(yaml.YAMLError, match="aliases"):
        parsed_front_matter(bomb)
    for text in ("# no front matter", "---\n- a\n---\n", "---\na: 1\n"):
        with pytest.raises(ValueError):
            parsed_front_matter(text)


def test_what_was_brought_in_is_told_as_such(tmp_path: Path) -> None:
    said = {
        "established": ["numbers: all finite"],
        "claimed": ["base: as given"],
        "not_established": ["data"],
    }
    with Registry.open(tmp_path) as registry:
        made = family(registry)
        brought = publish(
            registry, "adapter", "import", {"adapter_model.safetensors": b"w"}, (("adapter", made["base"]),),
            base=made["base"].manifest.base, quant=made["base"].manifest.quant, metrics={"import": said},
        )  # fmt: skip
        text = model_card(dossier(registry, brought))
    assert "LoRA adapter for hub:acme/Tiny-1B, made elsewhere and brought in." in text
    assert "Established from its files: numbers: all finite." in text
    assert "- Claimed by whoever made it, not verified: base: as given." in text
    assert "- Not established: data." in text
    assert "QLoRA" not in text
    assert "BitsAndBytesConfig" not in text
    assert "tags:\n- tuneline\n- lora\n" in text
    assert [ast.parse(code) for code in snippets(text)]
