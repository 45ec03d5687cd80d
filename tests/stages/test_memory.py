"""Each term of the memory that training and evaluation take, reckoned by hand for the pico model.

It has 1,179,648 linear weights in 2 layers (hidden 256, inner 512, 4 heads of 64, 2 of them for keys) and
12,584,192 others, of which 12,582,912 are its embedding of 49,152 rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.config.lora import LoraConfig
from stages.config.train import TrainConfig
from stages.memory import (
    NF4_BYTES,
    adapter_parameters,
    embedding_memory,
    evaluation_memory,
    kept_per_layer,
    training_memory,
)
from stages.model_shape import describe_base
from stages.quantization import method_of
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from tests.bench import published

PICO = describe_base("pico:0")
LINEAR, OTHERS, EMBEDDING = 1_179_648, 12_584_192, 12_582_912
ADAPTER = 8 * 2 * (512 + 384 + 384 + 512 + 3 * 768)
"""Parameters of rank 8 on q, k, v, o, gate, up and down."""


def config(dtype: str, **changes: Any) -> TrainConfig:
    lora = {"rank": 8, "dropout": changes.pop("dropout", 0.0)}
    settings = {"batch_size": 2, "gradient_accumulation": 1, "evaluations": 0, "lora": lora, **changes}
    return TrainConfig.model_validate({"nf4": {"compute_dtype": dtype}, **settings})


def test_the_shape_is_as_reckoned_with() -> None:
    assert (PICO.linear_parameters, PICO.parameters) == (LINEAR, LINEAR + OTHERS)
    assert PICO.vocabulary * PICO.hidden == EMBEDDING


@pytest.mark.parametrize(
    ("settings", "length", "kept"),
    [
        # residuals; rank of 7 modules; 3 shared inputs of 256 and one of 512; MLP 3 × 512; attention 3 × 256;
        # its answer
        (config("float32"), 200, 2048 + 4 * 8 * 7 + 4 * 1280 + 4 * (1536 + 768) + 4 * 256),
        # with dropout a byte for each number that one of the modules reads (6 × 256 + 512)
        (config("float32", dropout=0.1), 200, 2048 + 224 + 4 * 1280 + 2048 + 4 * 2304 + 1024),
        (config("bfloat16", dropout=0.1), 200, 2048 + 112 + 2 * 1280 + 2048 + 2 * 2304 + 512),
        # plain attention keeps 4 matrices of 100, float32 and 16 bits
        (config("bfloat16"), 100, 2048 + 112 + 2 * 1280 + 2 * 2304 + 4 * 100 * 6),
    ],
    ids=["float32", "float32 with dropout", "bfloat16 with dropout", "bfloat16, short"],
)
def test_what_a_layer_keeps_of_a_token(settings: TrainConfig, length: int, kept: int) -> None:
    assert kept_per_layer(PICO, settings, length) == kept


def test_a_step_without_checkpointing() -> None:
    settings = config("float32", gradient_checkpointing=False)
    layers = 2 * kept_per_layer(PICO, settings, 200)
    held = 4 * OTHERS + 4 * LINEAR + 12 * ADAPTER
    kept = max(2 * 200 * (layers + layers // 2), int(2 * (LINEAR + OTHERS) + NF4_BYTES * LINEAR))
    step = kept + 2 * 200 * 12 * 49152
    assert training_memory(PICO, settings, 200, "dequantized", gpu=False) == pytest.approx(held + step, abs=1)


def test_validation_reads_twice_the_rows_of_a_step() -> None:
    settings = config("bfloat16", gradient_checkpointing=True, evaluations=1)
    held = 2 * (OTHERS + LINEAR) + 12 * ADAPTER
    loaded = int(2 * (LINEAR + OTHERS) + NF4_BYTES * LINEAR)
    loss = 2 * 2 * 200 * 8 * 49152
    found = training_memory(PICO, settings, 200, "dequantized", gpu=False)
    assert found == pytest.approx(held + loaded + loss, abs=1)


def test_logits_of_many_labels_are_not_all_there_at_once() -> None:
    settings = config("float32", batch_size=8)
    unknown = replace(PICO, family="unknown")
    headed = settings.model_copy(update={"lora": LoraConfig(rank=8, modules_to_save=("lm_head",))})
    found, changed, trained = (
        training_memory(shape, settings, 1024, "dequantized", gpu=False)
        for shape, settings in ((PICO, settings), (unknown, settings), (PICO, headed))
    )
    assert changed - found == 8 * 1024 * 12 * 49152 - 10 * 2**25
    assert trained - found >= changed - found


def test_accumulated_gradients_stand_beside_the_next_batch() -> None:
    one, more = (config("float32", gradient_accumulation=count) for count in (1, 2))
    each = [training_memory(PICO, settings, 200, "dequantized", gpu=False) for settings in (one, more)]
    assert each[1] - each[0] == 4 * ADAPTER


def test_what_loading_freed_stays() -> None:
    # embedding in float32, NF4, and the pages of the 16-bit file
    settings = config("float32", batch_size=1)
    loaded = 4 * OTHERS + NF4_BYTES * LINEAR + 2 * (LINEAR + OTHERS)
    expected = int(loaded + 12 * ADAPTER + 8 * 12 * 49152)
    assert training_memory(PICO, settings, 8, "packed", gpu=False) == expected


def test_an_evaluation_with_and_without_a_ladder() -> None:
    # float32 sum and the file's pages; 16 rows of 63 tokens at 12 bytes a logit; 64 × 64 rows of the table;
    # keys and values of 16 rows
    exact = EvaluateConfig(compute_dtype="float32")
    expected = 6 * (LINEAR + OTHERS) + 1008 * 49152 * 12 + 4096 * 49152 * 4 + 4_194_304
    assert evaluation_memory(PICO, exact, 128, (64, 64)) == expected == 1_486_626_304
    rounded = EvaluateConfig(compute_dtype="bfloat16")
    expected = 4 * (LINEAR + OTHERS) + 256 * 49152 * 12 + 2_097_152
    assert evaluation_memory(PICO, rounded, 128, (0, 0)) == expected
    choice = EvaluateConfig(compute_dtype="bfloat16", tasks=(HeldoutTask(choice=True),))
    assert evaluation_memory(PICO, choice, 128, (0, 0)) == expected + (1024 - 256) * 49152 * 12


def test_an_evaluation_whose_answers_the_base_embeds() -> None:
    """The model that answered, the base in the type that is computed in, and the pages of its file."""
    config = EvaluateConfig(compute_dtype="bfloat16", tasks=(HeldoutTask(metrics=("embedding",)),))  # type: ignore[arg-type]
    assert embedding_memory(PICO, config, False) == (2 + 2 + 2) * (LINEAR + OTHERS)
    assert embedding_memory(PICO, config, True) == (4 + 2 + 2) * (LINEAR + OTHERS)
    exact = config.model_copy(update={"compute_dtype": "float32"})
    assert embedding_memory(PICO, exact, False) == (4 + 4 + 2) * (LINEAR + OTHERS)
    assert embedding_memory(PICO, EvaluateConfig(tasks=(HeldoutTask(),)), True) == 0


def test_quantizing() -> None:
    gptq = GptqConfig(group_size=64, calibration_rows=32, compute_dtype="float32")
    library, ends, done = 15_000_000, 4 * OTHERS, 3.5 * LINEAR
    activations, hessian, layer = 2048 * 256 * 4 * 4, 3 * 4 * 512**2, 6 * LINEAR
    written = EMBEDDING * (4 + 2 + 4)
    expected = int(library + ends + done + activations + hessian + layer + written)
    assert method_of(gptq).cost(gptq, PICO, 64).memory_bytes == expected
    gguf = GgufConfig(type="Q8_0")
    assert method_of(gguf).cost(gguf, PICO, 64).memory_bytes == 8 * EMBEDDING - 80_000_000


def test_on_a_gpu_logits_and_the_last_layer_are_not_there_together() -> None:
    given = {"lora": {"rank": 8, "dropout": 0.0}, "nf4": {"compute_dtype": "bfloat16"}, "optimizer": "adamw"}
    settings = TrainConfig.model_validate({**given, "batch_size": 2, "gradient_checkpointing": True})
    # 38 bytes for each of 256 hidden units, 2 for each of the adapters' inputs: six of 256, one of 512
    layer, logits = 38 * 256 + 2 * (6 * 256 + 512), 18 * 49152
    found = [training_memory(PICO, settings, tokens, "packed", gpu=True) for tokens in (100, 200)]
    assert found[1] - found[0] == 2 * 100 * (4 * 256 * 2 + max(layer, logits))
    flat = settings.model_copy(update={"gradient_checkpointing": False})
    found = [training_memory(PICO, flat, tokens, "packed", gpu=True) for tokens in (100, 200)]
    assert found[1] - found[0] == 2 * 100 * (2 * layer + logits)
    found = [training_memory(PICO, flat, tokens, "packed", gpu=True) for tokens in (400, 500)]
    assert found[1] - found[0] == 2 * 100 * 2 * layer, "no more than 2^25 logits are there at once"
    changed = replace(PICO, family="unknown")
    found = [training_memory(shape, flat, 500, "packed", gpu=True) for shape in (PICO, changed)]
    assert found[1] - found[0] == 18 * (2 * 500 * 49152 - 2**25)


@pytest.mark.parametrize(
    "figure", published.FIGURES, ids=lambda figure: f"{figure.source.name}, {figure.model}, {figure.tokens}"
)
def test_published_figures_follow_from_what_their_sources_hold(figure: published.Figure) -> None:
    if figure.source in (published.PAPER, published.H2O):
        assert figure.agrees
    if figure.source is published.WIKI:
        assert figure.as_they == pytest.approx(figure.published, rel=0.07)
    if figure.source in (published.WIKI, published.TORCHTUNE):
        assert figure.all_at_once > 0.95 * figure.published, "never foretold to fit where it did not"
    if figure.source is published.QWEN:
        # which trains over GPTQ weights with DeepSpeed, whose buffers are 2 to 4 GB
        assert figure.all_at_once + 4e9 > 0.95 * figure.published


def test_what_is_trained_whole_has_gradients_and_moments_too() -> None:
    ends = {"embed_tokens": EMBEDDING, "lm_head": EMBEDDING}
    for name, parameters in {**ends, "mlp.up_proj": 2 * 256 * 512, "norm": 0}.items():
        more = config("bfloat16", lora={"rank": 8, "modules_to_save": [name]})
        assert adapter_parameters(PICO, more) == ADAPTER + parameters
    plain, whole = (
        training_memory(PICO, config("bfloat16", batch_size=1, lora=lora), 8, "packed", False)
        for lora in ({"rank": 8}, {"rank": 8, "modules_to_save": list(ends)})
    )
    assert whole - plain == pytest.approx(16 * 2 * EMBEDDING, rel=0.03), "copy, gradient and two moments"


def test_dora_keeps_what_base_and_factors_answer() -> None:
    """And makes no more holes: so measured (`python -m tests.bench.planner --only dora`)."""
    outputs, rows = 2 * (256 + 2 * 128 + 256 + 2 * 512 + 256), 2 * 64
    for dtype, wide in (("bfloat16", 2), ("float32", 4)):
        flat = {"gradient_checkpointing": False}
        plain, dora = (
            training_memory(PICO, config(dtype, lora=lora, **flat), 64, "packed", False)
            for lora in ({"rank": 8, "dropout": 0}, {"rank": 8, "dropout": 0, "dora": True})
        )
        with_lengths = kept_per_layer(PICO, config(dtype, lora={"rank": 8, "dropout": 0, "dora": True}), 64)
        copies = 2 * (2048 - 1280) * (wide == 2)
        assert with_lengths - kept_per_layer(PICO, config(dtype), 64) == 2 * wide * outputs // 2 + copies
        lengths = 16 * outputs
        assert 0 <= dora - plain <= 2 * wide * outputs * rows + lengths + 4 * 512 * (512 + 3 * 512)
