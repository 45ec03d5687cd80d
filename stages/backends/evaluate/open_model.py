"""Open what a model directory holds, as it is, for measuring: 16-bit, NF4 (with an adapter), GPTQ, GGUF."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
import transformers
from torch import nn

from registry.compat import peft
from registry.errors import Incompatible
from stages.backends.arithmetic import effective
from stages.backends.chat import end_tokens, load_tokenizer
from stages.backends.evaluate.token_lm import TokenLM
from stages.backends.gptq.load import dequantize_in_place, packed_gptq
from stages.backends.tokenizer import tokenizer_home
from stages.config.evaluate import EvaluateConfig
from stages.contract import Parent, Parents
from stages.errors import InvalidInput
from stages.families.config_names import text_config
from stages.formats.model_directory import ModelDirectory


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to be measured. `bytes`: the weights as held, an adapter's included."""

    lm: TokenLM
    description: str
    bytes: int
    parameters: int
    bits_per_weight: float


def open_model(
    parents: Parents, config: EvaluateConfig, exact: bool = False, tokenizer: Any = None
) -> OpenedModel:
    """`parents["model"]`, with `parents["adapter"]` if given; `exact`: in float32 where a CPU computes.

    With `tokenizer` its own is not read: for whoever asks in token ids.

    Raises `InvalidInput` for a combination that makes no sense, `Incompatible` for another base's adapter.
    """
    model, adapter = parents["model"], parents.get("adapter")
    gguf = _gguf_in(model)
    settings = {} if gguf else _settings(model)
    packed = "GGUF" if gguf else "GPTQ" if "quantization_config" in settings else None
    _require_sense(model, adapter, packed, config)
    if gguf:
        return _open_gguf(gguf, parents, config, tokenizer)
    tokenizer = tokenizer or load_tokenizer(tokenizer_home(model.path, adapter.path if adapter else None))
    if packed:
        network, description = _load_gptq(model.path, config)
        size = sum(file.stat().st_size for file in model.path.glob("*.safetensors"))
    elif config.nf4 is not None:
        network, description, size = _load_nf4(model.path, config)
    else:
        network, description = _load_16bit(model.path, config)
        size = ModelDirectory(model.path).nbytes
    parameters = network.num_parameters()
    if adapter is not None:
        if exact and network.device.type == "cpu":
            network, description = network.float(), f"{description}, computed in float32"
        network, description = _put_on(network, adapter.path), f"{description}, with a LoRA adapter"
        size += sum(file.stat().st_size for file in adapter.path.glob("adapter_model*.safetensors"))
    lm = _torch_lm(network, tokenizer, config)
    bits = model.metrics.get("bits_per_weight") if packed else None
    return OpenedModel(
        lm, f"{description} on {lm.device.type}", size, parameters, bits or 8 * size / parameters
    )


def _require_sense(model: Parent, adapter: Parent | None, packed: str | None, config: EvaluateConfig) -> None:
    # llama.cpp's converter writes its file beside PEFT's unless told otherwise
    has_peft = adapter is not None and (adapter.path / peft.CONFIG).is_file()
    gguf_adapter = None if adapter is None or (has_peft and packed != "GGUF") else _gguf_in(adapter)
    if gguf_adapter and packed != "GGUF":
        raise InvalidInput(
            f"{gguf_adapter} is a GGUF adapter, which llama.cpp puts on a GGUF of its base; "
            "give that as the model"
        )
    if packed and ((adapter is not None and not gguf_adapter) or config.nf4 is not None):
        asked = "nf4 is set" if config.nf4 is not None else "a PEFT adapter was given"
        raise InvalidInput(
            f"model {model.id[:12]} is already quantized ({packed}), but {asked}; "
            "measure it as it is, or give the 16-bit base"
        )
    if adapter is not None:
        _require_same_base(model, adapter)


def _gguf_in(parent: Parent) -> Path | None:
    files = sorted(parent.path.glob("*.gguf"))
    if len(files) > 1:
        raise InvalidInput(f"{parent.kind} {parent.id[:12]} holds {len(files)} GGUF files; expected one")
    return files[0] if files else None


def _open_gguf(file: Path, parents: Parents, config: EvaluateConfig, tokenizer: Any) -> OpenedModel:
    model, base, adapter = parents["model"], parents.get("base"), parents.get("adapter")
    if base is None:
        raise InvalidInput(
            f"{file.name} needs its base beside it, whose chat template renders the questions; "
            "give the base model's directory as base"
        )
    if model.base and base.base and model.base.tokenizer_digest != base.base.tokenizer_digest:
        raise Incompatible(
            f"{file.name} was made from {model.base.source}, but the base beside it is "
            f"{base.base.source} with another tokenizer; give the base that it was made from"
        )
    import llama_cpp

    from stages.backends.evaluate.llama_cpp_lm import LlamaCppLM

    own = tokenizer is None
    tokenizer = tokenizer or load_tokenizer(base.path)
    lora = None if adapter is None else _gguf_in(adapter)
    reading = _reading(tokenizer, config.batch_size)
    lm = LlamaCppLM(file, tokenizer, adapter=lora, context_length=config.context_length, **reading)
    if own:
        _render_as_it_does(lm, file, lm.control_tokens(max(tokenizer.get_vocab().values()) + 1))
    beside = lora.stat().st_size if lora else 0
    bits = model.metrics.get("bits_per_weight") or 8 * lm.tensor_bytes / lm.parameters
    description = f"GGUF {lm.file_type}{' with a LoRA adapter' if lora else ''} on llama.cpp"
    description += f" (llama-cpp-python {llama_cpp.__version__}) on cpu"
    return OpenedModel(
        lm, description, file.stat().st_size + beside, lm.parameters, bits + 8 * beside / lm.parameters
    )


def _render_as_it_does(lm: TokenLM, file: Path, unknown: list[str]) -> None:
    """By the file's own chat template, as an engine does that serves it.

    `unknown`: tokens of the file's that `lm.tokenizer` lacks, so it could not tell where an answer ends.
    """
    from stages.formats.gguf import read_gguf

    if unknown:
        raise InvalidInput(
            f"{file.name} has tokens that structure chats and that the base beside it does not know: "
            f"{', '.join(unknown[:4])}; give the merged model that it was made from as base"
        )
    template = read_gguf(file).values.get("tokenizer.chat_template")
    if template is not None and template != lm.tokenizer.chat_template:
        lm.tokenizer.chat_template, lm.rendered = template, True
        lm.stop_ids = end_tokens(lm.tokenizer)


def _torch_lm(network: Any, tokenizer: Any, config: EvaluateConfig) -> TokenLM:
    from stages.backends.evaluate.torch_lm import TorchLM

    longest = text_config(network.config.to_dict(), "its config.json").get("max_position_embeddings")
    length = min(config.context_length, longest or config.context_length)
    return TorchLM(network, tokenizer, max_length=length, **_reading(tokenizer, config.batch_size))


class _Reading(TypedDict):
    batch_size: int
    stop_ids: frozenset[int]
    rendered: bool


def _reading(tokenizer: Any, batch_size: int) -> _Reading:
    return {
        "batch_size": batch_size,
        "stop_ids": end_tokens(tokenizer),
        "rendered": bool(tokenizer.chat_template),
    }


def _load_16bit(path: Path, config: EvaluateConfig) -> tuple[Any, str]:
    network = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype="auto", local_files_only=True, trust_remote_code=False
    )
    stored = network.dtype
    network = _ready(network, config)
    return network, f"{_name(stored)} weights{_computed(stored, network.dtype)}"


def _load_nf4(path: Path, config: EvaluateConfig) -> tuple[Any, str, int]:
    from stages.backends.nf4 import VALUES, dequantize_in_place, effective_quantization, load_nf4

    nf4 = config.nf4
    assert nf4 is not None
    network = load_nf4(path, nf4, "packed")
    layers = effective_quantization(network)
    packed = {id(module.weight) for _, module in _linear4bit(network)}
    rest = VALUES.itemsize * sum(w.numel() for w in network.parameters() if id(w) not in packed)
    if network.device.type == "cpu":
        # The same values, unpacked: on a CPU the packed kernels are several times slower.
        dequantize_in_place(network)
    nested = " with double quantization" if nf4.double_quant else ""
    computed = _name(effective(nf4.compute_dtype))
    description = f"NF4{nested}, computed in {computed} with transformers {transformers.__version__}"
    return network, description, rest + round(layers["weights"] * layers["bits_per_weight"] / 8)


def _linear4bit(network: nn.Module) -> Any:
    from stages.backends.nf4 import quantized_modules

    return quantized_modules(network)


def _load_gptq(path: Path, config: EvaluateConfig) -> tuple[Any, str]:
    on_cpu = not torch.cuda.is_available()
    network, stored = packed_gptq(path, on_cpu)
    import gptqmodel

    if on_cpu:
        dequantize_in_place(network)
        network = _ready(network, config)
    description = f"GPTQ by GPTQModel {gptqmodel.__version__}, {_name(stored)} scales"
    return network, f"{description}{_computed(stored, network.dtype)}"


def _ready(network: Any, config: EvaluateConfig) -> Any:
    """On the device and in the type to compute with; a GPU with bfloat16 computes in the stored type."""
    dtype = effective(config.compute_dtype)
    if torch.cuda.is_available():
        network = network.to("cuda")
        return network if dtype == torch.bfloat16 else network.to(dtype)
    return network.to(dtype)


def _computed(stored: torch.dtype, computed: torch.dtype) -> str:
    in_another = f", computed in {_name(computed)}" if computed != stored else ""
    return f"{in_another} with transformers {transformers.__version__}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _put_on(network: Any, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(network, str(adapter), is_trainable=False)


def _settings(model: Parent) -> Mapping[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((model.path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{model.path} holds no model that can be measured ({error}); expected a Hugging Face "
            "directory, a GPTQ directory or one with a .gguf file"
        ) from error
    return settings


def _require_same_base(model: Parent, adapter: Parent) -> None:
    if model.base is None or adapter.base is None:
        return
    if model.base.weights_digest != adapter.base.weights_digest:
        raise Incompatible(
            f"adapter {adapter.id[:12]} was trained on {adapter.base.source} at "
            f"{adapter.base.revision[:12]}, but the model to measure is {model.base.source} at "
            f"{model.base.revision[:12]} with other weights; measure it on the base it was trained on"
        )
