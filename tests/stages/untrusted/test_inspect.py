"""Files of somebody else's: what is good is described, what is bad is refused in seconds with its reason."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stages.errors import InvalidInput
from stages.untrusted.inspect import compare, inspect, look
from tests.seconds import seconds
from tests.stages.untrusted import hostile_files
from tests.stages.untrusted.hostile_files import HOSTILE, adapter, gguf, model, with_tokenizer

IN_THE_CHILD = (
    "a header nested very deeply", "a huge header", "a template that writes gigabytes", "NaN in a tensor",
    "43 bytes that announce 2^63 elements", "a tokenizer of 65 MB",
)  # fmt: skip
"""In pytest the others are read in this process, which is faster; `tests.reliability.foreign` limits all."""


@pytest.mark.parametrize("wrong", HOSTILE)
def test_what_is_hostile_or_damaged_is_refused(wrong: str, tmp_path: Path) -> None:
    make, said = HOSTILE[wrong]
    place = make(tmp_path / "stranger")
    started = time.monotonic()
    with pytest.raises(InvalidInput) as caught:
        inspect(place, thorough=True) if wrong in IN_THE_CHILD else look(str(place), thorough=True)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 600
    assert time.monotonic() - started < seconds(30)


def test_an_adapter_is_described(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    (folder / "training_args.bin").write_bytes(b"\x80\x04K.")
    (folder / "checkpoint-10").mkdir()
    found = look(str(folder), True)
    assert found["form"] == "adapter"
    assert found["files"] == ["adapter_config.json", "adapter_model.safetensors"]
    assert found["left_out"] == ["training_args.bin"]
    assert found["outline"]["rank"] == 2
    assert found["config"]["revision"] is None
    assert found["parameters"] == 2 * hostile_files.RANK * hostile_files.HIDDEN


def test_a_model_is_described_with_its_tokenizer(tmp_path: Path) -> None:
    folder = with_tokenizer(model(tmp_path / "m"), template="{{ messages[0]['content'] }}")
    found = look(str(folder), True)
    assert found["form"] == "model"
    assert found["outline"]["context_length"] == 64
    assert found["tokenizer"]["length"] == 2
    assert found["tokenizer"]["chat_template"]["present"]


@pytest.mark.parametrize(
    "settings", [{}, {"checkpoint_format": "gptq_v2", "meta": {"quantizer": ["gptqmodel:7.6.0"]}}]
)
def test_gptq_settings_of_either_library(settings: dict[str, object], tmp_path: Path) -> None:
    known = {"quant_method": "gptq", "bits": 4, "group_size": 32, **settings}
    found = look(str(model(tmp_path / "q", quantization_config=known)), True)
    assert (found["form"], found["quantization"]["bits"]) == ("gptq", 4)
    assert found["quantization"]["checkpoint_format"] == settings.get("checkpoint_format", "gptq")


def test_gptq_settings_beside_the_config_as_auto_gptq_wrote_them(tmp_path: Path) -> None:
    folder = model(tmp_path / "q")
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-32g.safetensors")
    (folder / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "desc_act": true}')
    found = look(str(folder), True)
    assert found["form"] == "gptq"
    assert found["quantization"]["stands_in"] == "quantize_config.json"
    assert found["quantization"]["desc_act"]
    assert found["weights"] == ["gptq_model-4bit-32g.safetensors"]


def test_a_gguf_is_described(tmp_path: Path) -> None:
    file = tmp_path / "any name.gguf"
    file.write_bytes(gguf())
    found = look(str(file), True)
    assert (found["form"], found["tokens"], found["embedding"], found["blocks"]) == ("gguf", 2, [8, 2], 1)
    assert found["effective"]["types"] == {"F32": 1}
    assert not found["names_its_type"]


def test_links_within_a_hub_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--acme" / "blobs", tmp_path / "models--acme" / "snapshots" / "abc"
    adapter(blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert look(str(snapshot), False)["form"] == "adapter"


def test_headers_alone_do_not_read_the_numbers(tmp_path: Path) -> None:
    folder = HOSTILE["NaN in a tensor"][0](tmp_path / "a")
    assert inspect(folder)["form"] == "adapter"
    with pytest.raises(InvalidInput, match="NaN"):
        inspect(folder, thorough=True)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        inspect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "tokenizer",
    [
        '{"model": [1]}',
        '{"model": "BPE"}',
        '{"added_tokens": 5}',
        '{"added_tokens": [{"id": [1]}, {"id": 3}, 7]}',
    ],
)
def test_a_tokenizer_of_no_known_form_has_no_vocabulary(tokenizer: str, tmp_path: Path) -> None:
    folder = with_tokenizer(model(tmp_path / "m"), tokenizer)
    assert look(str(folder), False)["tokenizer"]["length"] is None
    assert compare(str(folder), str(folder)) is None
