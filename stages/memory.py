"""How much memory training and evaluation take beside their libraries, from a model's shape and the settings.

On a CPU each term is what the code holds at its peak, in bytes; on a GPU it is reckoned from papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from registry.compat.shapes import is_end
from stages.config.embedding_metric import EmbeddingMetric
from stages.config.evaluate import (
    EvaluateConfig,
    HeldoutTask,
    LabelledTask,
    LmEvalTask,
    PerplexityTask,
    PreferenceTask,
)
from stages.config.lora import LoraConfig
from stages.config.train import TrainConfig
from stages.families.blocks import BLOCKS, is_called
from stages.model_shape import ModelShape

CUDA = 800_000_000
"""Bytes of a CUDA context with its kernels."""
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes per weight: 4 bits, an 8-bit constant per 64, a 32-bit one per 256 of those: 4.127 bits
(Dettmers et al. 2023, arXiv:2305.14314, section 3)."""
NF4_SINGLE_BYTES = (4 + 32 / 64) / 8
KEPT_PER_LAYER = 38
"""On a GPU, bytes per token and hidden unit that a layer keeps for its backward pass: 34 in 16 bits without
attention matrix (Korthikanti et al. 2022, arXiv:2205.05198, eq. 2), and 4 for the float32 residual."""
KEPT_PER_LOGIT = 18
"""On a GPU, bytes per token and vocabulary entry: 16-bit logits, float32 copy, log-softmax, and their
gradients."""
STEP_LOGITS, LOSS_LOGITS = 12, 8
"""On a CPU: log-softmax, its gradient and that of the logits; without a backward pass logits and log-softmax.
All float32: accelerate widens what a model answers."""
LOGITS_AT_ONCE, PART_LOGITS = 2**25, 10
"""How many a training holds of a frozen head whose output nothing changes, and their bytes: logits,
log-softmax that becomes the gradient, and its copy in 16 bits."""
CHANGED_LOGITS = frozenset({"gemma2"})
"""Families that change them after the head, so that all of a batch are held."""
SCALED = frozenset({"biogpt", "gemma", "gemma2", "gemma3_text", "xglm"})
"""Families whose embedding scales what it answers, so that a training holds embedding and head in float32."""
HOLES = {2: 0.4, 4: 0.5}
"""By bytes per number: of what all layers keep without checkpointing, that much lies free in glibc's heap
during a step, with checkpointing too: measured, 0.3 to 0.45 and 0.4 to 0.75."""
STORED = 2
"""Bytes per parameter of a base's file, whose pages are resident while it is read."""
BRANCH_TOKENS = 1024
"""Continuation tokens that an evaluation reads at once; `stages.backends.evaluate.token_lm` has it, which
loads torch."""

LOGIT_COPIES = 12
"""Bytes per logit: a batch's in float32, those of the batch before, and the copy that is compared."""
SHORT_ROWS = 128
"""Tokens up to which plain attention trains faster on a CPU than torch's flash kernel: 460 against 351
tokens/s at 48 tokens, 366 against 399 at 256 (135M model, 16 rows, one core with AMX)."""

Frozen = Literal["packed", "dequantized"]


def training_memory(shape: ModelShape, config: TrainConfig, longest: int, frozen: Frozen, gpu: bool) -> int:
    """Bytes at the peak of training on sequences of `longest` tokens, all of which have a label.

    Frozen linear weights in NF4 or the type that is computed in, embedding and head in that type; norms, in
    float32, are not counted. Per adapter parameter 4 bytes each for weight, gradient and two Adam moments;
    with a paged optimizer on a GPU the moments move to main memory when the GPU is full. A pair of DPO is two
    sequences; what the reference says of it is two numbers.
    """
    config = config.as_run
    wide = 4 if config.nf4.compute_dtype == "float32" else 2
    nf4 = NF4_BYTES if config.nf4.double_quant else NF4_SINGLE_BYTES
    outside = (shape.parameters - shape.linear_parameters) * (4 if shape.family in SCALED else wide)
    weights = outside + shape.linear_parameters * (nf4 if frozen == "packed" else wide)
    adapter, tokens = adapter_parameters(shape, config), config.sequences * longest
    if gpu:
        moved = adapter * _optimizer_bytes(config) + _dora_moment(shape, config)
        return int(CUDA + weights + moved + _kept_on_gpu(shape, config, tokens))
    # glibc keeps what loading frees, the pages of a file's copy and of NF4, until activations take its place
    loaded = STORED * shape.parameters + shape.linear_parameters * nf4 * (frozen != "packed")
    layer = kept_per_layer(shape, config, longest)
    layers = 4 * shape.hidden * shape.layers if config.gradient_checkpointing else layer * shape.layers
    holes = HOLES[wide] * (layer - _dora_kept(shape, config, wide))  # as measured, with DoRA no more
    kept = tokens * (layers + holes * shape.layers)
    # validation reads twice as many rows as a step, and the heap keeps the step's activations meanwhile
    logits = tokens * max(STEP_LOGITS, 2 * LOSS_LOGITS if config.evaluations else 0) * shape.vocabulary
    if _in_parts(shape, config):
        logits = min(logits, PART_LOGITS * LOGITS_AT_ONCE)
    # a single batch has no gradients yet when its logits are there
    with_logits = adapter * (12 if config.gradient_accumulation == 1 else 16)
    moment = max(logits, tokens * layer, _dora_moment(shape, config))
    return int(weights + max(loaded, kept) + max(with_logits + moment, 16 * adapter))


def kept_per_layer(shape: ModelShape, config: TrainConfig, longest: int) -> int:
    """Bytes per token that a layer of a Llama-like block keeps for its backward pass on a CPU.

    Two float32 residuals; what the MLP's activation and product and attention (queries, keys and values of
    each head; with plain attention its matrix, else the answer) keep, in the type of the arithmetic; what the
    adapted modules read in that type, once for those that read the same; and for each of these rank numbers
    between the factors, and with dropout a byte for each number read. With DoRA, which PEFT computes, each
    module has a copy in 16 bits, or with dropout one with a float32 mask.
    """
    wide = 4 if config.nf4.compute_dtype == "float32" else 2
    inputs = [widths[0] for widths in adapted(shape, config).values()]
    lora = wide * config.lora.rank * len(inputs)
    shared = wide * min(sum(inputs), 3 * shape.hidden + shape.intermediate)
    if not config.lora.dora:
        lora += shared + sum(inputs) * bool(config.lora.dropout)
    elif config.lora.dropout:
        lora += (wide + 4) * sum(inputs)
    else:
        lora += wide * sum(inputs) if wide == 2 else shared
    queries = shape.heads * shape.head_size
    lora += _dora_kept(shape, config, wide)
    plain = longest <= SHORT_ROWS and not config.packing
    matrix = shape.heads * longest * (4 if wide == 4 else 6) if plain else wide * queries
    mlp = (3 if shape.gated else 2) * shape.intermediate
    return 8 * shape.hidden + lora + wide * (mlp + 3 * queries) + matrix


def evaluation_memory(shape: ModelShape, config: EvaluateConfig, length: int, ladder: tuple[int, int]) -> int:
    """Bytes at the peak of the evaluation that takes most, a merge's, on a CPU.

    `length`: tokens of the longest row; `ladder`: chats and tokens that are compared, zeros without a ladder.
    On the ladder the merge's sum is computed in float32, whatever the rest is.
    """
    chats, compared = ladder
    compared = min(compared, length - 1)
    wide = 4 if chats or config.compute_dtype == "float32" else 2
    # a model is read from its file, whose pages are resident until it is
    weights = (wide + STORED) * shape.parameters
    branches = min(BRANCH_TOKENS, min(config.batch_size, chats) * (compared - 1)) if chats else 0
    likelihoods = (LmEvalTask, PreferenceTask, LabelledTask, PerplexityTask)
    if any(isinstance(t, likelihoods) or (isinstance(t, HeldoutTask) and t.choice) for t in config.tasks):
        branches = BRANCH_TOKENS
    # of a batch with as many lengths as rows each row's end is projected for all
    logits = shape.vocabulary * max(branches, config.batch_size**2) * LOGIT_COPIES
    # log-probabilities of the first model lie in a file, mapped
    table = chats * compared * shape.vocabulary * 4
    cache = 2 * wide * shape.layers * shape.kv_heads * shape.head_size * length * config.batch_size
    return int(weights + table + logits + cache)


def embedding_memory(shape: ModelShape, config: EvaluateConfig, exact: bool) -> int:
    """Bytes while the base is read for the metric `embedding`, on the CPU in any case; 0 where none asks.

    It stands beside the model whose answers are scored, which is held in float32 where it is `exact`.
    """
    tasks = (task for task in config.tasks if isinstance(task, HeldoutTask))
    if not any(isinstance(metric, EmbeddingMetric) for task in tasks for metric in task.metrics):
        return 0
    wide = 4 if config.compute_dtype == "float32" else 2
    return ((4 if exact else wide) + wide + STORED) * shape.parameters


def _optimizer_bytes(config: TrainConfig) -> int:
    """Per adapter parameter on a GPU, weight and gradient included."""
    moments = {"paged_adamw_32bit": 0, "paged_adamw_8bit": 0, "adamw": 8}[config.optimizer]
    return 8 + moments


def _in_parts(shape: ModelShape, config: TrainConfig) -> bool:
    """Whether of many labels not all logits are held at once."""
    known = shape.family in BLOCKS and shape.family not in CHANGED_LOGITS
    return known and not config.lora.modules_to_save


def _kept_on_gpu(shape: ModelShape, config: TrainConfig, tokens: int) -> int:
    """With checkpointing logits are gone when the backward pass computes the last layer again."""
    layer, count = layer_on_gpu(shape, config) * tokens, tokens * shape.vocabulary
    logits = KEPT_PER_LOGIT * (min(count, LOGITS_AT_ONCE) if _in_parts(shape, config) else count)
    if config.gradient_checkpointing:
        return 4 * shape.hidden * shape.layers * tokens + max(layer, logits)
    return layer * shape.layers + logits


def layer_on_gpu(shape: ModelShape, config: TrainConfig) -> int:
    """Bytes per token that a layer keeps for its backward pass on a GPU."""
    wide = 2 if config.nf4.compute_dtype == "float32" else 1
    # the adapter keeps a 16-bit copy of its input, and dropout its mask, a byte
    inputs, outputs = (sum(widths[side] for widths in adapted(shape, config).values()) for side in (0, 1))
    lora = (2 * wide + bool(config.lora.dropout)) * inputs + 4 * wide * outputs * config.lora.dora
    return KEPT_PER_LAYER * wide * shape.hidden + lora


def adapter_parameters(shape: ModelShape, config: TrainConfig) -> int:
    """rank × (inputs + outputs) of every adapted module, with DoRA a length of each output's weights, and all
    of what is trained whole."""
    widths, blocks, rank = adapted(shape, config), _blocks(shape, config), config.lora.rank
    each = {name: rank * sum(both) + both[1] * config.lora.dora for name, both in widths.items()}
    return sum(blocks[name] * each[name] for name in widths) + _whole(shape, config.lora.modules_to_save)


def _whole(shape: ModelShape, names: Sequence[str]) -> int:
    """Parameters of embedding, head and linear layers that are trained whole; those of norms are few."""
    ends = sum(shape.vocabulary * shape.hidden for name in names if is_end(name))
    return ends + shape.layers * sum(
        inputs * outputs
        for name in names
        for layer, (inputs, outputs) in shape.linear_shapes().items()
        if not is_end(name) and is_called(layer, name)
    )


def _dora_kept(shape: ModelShape, config: TrainConfig, wide: int) -> int:
    """Bytes per token that a layer keeps of what base and factors answer, for the gradient of the lengths."""
    return 2 * wide * sum(both[1] for both in adapted(shape, config).values()) * config.lora.dora


def _dora_moment(shape: ModelShape, config: TrainConfig) -> int:
    """Bytes while DoRA finds the lengths of a module's weights: identity, B · A, the weights, their sum."""
    widths = adapted(shape, config).values() if config.lora.dora else ()
    return max((4 * inputs * (inputs + 3 * outputs) for inputs, outputs in widths), default=0)


def adapted(shape: ModelShape, config: TrainConfig) -> dict[str, tuple[int, int]]:
    """Input and output width of the linear layers that get an adapter in some block, by name."""
    return {name: shape.linear_shapes()[name] for name in _blocks(shape, config)}


def _blocks(shape: ModelShape, config: TrainConfig) -> dict[str, int]:
    """In how many blocks each of the linear layers gets an adapter, of those that do in some.

    A pattern is held against the names that most models have; one that matches none is taken to match all.
    """
    lora, layers = config.lora, range(shape.layers)
    named = (lora.target_modules,) if isinstance(lora.target_modules, str) else lora.target_modules
    found = [
        name
        for name in shape.linear_shapes()
        if lora.target_modules == "all-linear" or any(is_called(name, ending) for ending in named)
    ]
    for given in (lora, lora.model_copy(update={"pattern": None})):
        counts = {name: sum(_meant(given, n, name) for n in layers) for name in found}
        if any(counts.values()):
            break
    return {name: count for name, count in counts.items() if count}


def _meant(lora: LoraConfig, layer: int, name: str) -> bool:
    """Whether a block's module gets an adapter, as far as names tell that most models have."""
    return any(lora.meant(f"model.layers.{layer}.{part}{name}") for part in ("self_attn.", "mlp.", ""))
