"""What a model is made of: the table's word against what transformers builds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.backends.merge.layout import PLAIN, built_layout, layout, plain_layout
from tests.stages.families.tiny_models import config_of


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", sorted(PLAIN))
def test_a_plain_family_is_as_transformers_builds_it(family: str, tied: bool, tmp_path: Path) -> None:
    config_of(family, tie_word_embeddings=tied).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert plain_layout(config) == built_layout(tmp_path) == layout(tmp_path)


@pytest.mark.parametrize("missing", ["num_hidden_layers", "tie_word_embeddings", "model_type"])
def test_what_the_config_leaves_open_is_not_guessed(missing: str, tmp_path: Path) -> None:
    config_of("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config[missing]
    assert plain_layout(config) is None


def test_other_families_are_built(tmp_path: Path) -> None:
    config_of("gpt2").save_pretrained(tmp_path)
    assert plain_layout(json.loads((tmp_path / "config.json").read_text())) is None
    assert "transformer.h.0.attn.c_attn" in layout(tmp_path).modules
