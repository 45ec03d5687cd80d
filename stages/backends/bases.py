"""Fetch a base model from where it is, check it, and describe it down to its bytes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from registry.artifacts import BaseReference
from stages.backends import hub
from stages.backends.gguf import packaged as gguf_files
from stages.backends.pico import make_pico
from stages.backends.tokenizer import load_tokenizer, require_plain_reading
from stages.config.base import BaseConfig
from stages.errors import InvalidInput
from stages.families.config_names import CAUSAL
from stages.formats.model_directory import ModelDirectory, TensorHeader
from stages.formats.model_files import (
    copy_model_files,
    sha256_of_file,
    sha256_of_text,
    tokenizer_digest,
    weights_digest,
)
from stages.formats.packaged import packaged_gguf, version_of

log = logging.getLogger("tuneline.resolve")


@dataclass(frozen=True)
class Origin:
    """Where a base came from. `revision` None: the digest of its content, known once it is here."""

    source: str
    revision: str | None = None
    file_sha256: str | None = None


def fetch(config: BaseConfig, out: Path) -> Origin:
    """Put the base's files under `out`. Raises `InvalidInput` where the source cannot be used or reached."""
    scheme, _, place = config.source.partition(":")
    dtype: torch.dtype = getattr(torch, config.dtype)
    if scheme == "hub":
        repo, commit = hub.download(place, out)
        origin = Origin(f"hub:{repo}", commit)
    elif scheme == "package":
        gguf = packaged_gguf(place)
        gguf_files.convert(gguf, dtype, out)
        sha256 = sha256_of_file(gguf)
        version = version_of(place)
        origin = Origin(config.source, f"{version}+{sha256}", sha256)
    elif scheme == "pico":
        make_pico(int(place), dtype, out)
        origin = Origin(config.source)
    else:
        folder = Path(place).expanduser().resolve()
        copy_model_files(folder, out)
        origin = Origin(f"path:{folder.name}")
    if config.chat_template is not None:
        _give_chat_template(Path(config.chat_template), out)
    _forget_local_names(out)
    require_plain_reading(out)
    return origin


def describe(folder: Path, origin: Origin) -> tuple[BaseReference, dict[str, object]]:
    """Check the Hugging Face directory `folder` and say exactly what it is, without loading its weights.

    Returns the reference and metrics (`parameters`, `bytes`, `dtype`, `unused_embedding_rows`,
    `origin_file_sha256`). Raises `InvalidInput` naming what is wrong with it.
    """
    model_config = read_model_config(folder, origin.source)
    tokenizer = load_tokenizer(folder)
    template = _chat_template(tokenizer, origin.source)
    model = ModelDirectory(folder)
    rows = _embedding_rows(model_config, model.headers, origin.source)
    ids = max(tokenizer.get_vocab().values()) + 1
    if ids > rows:
        raise InvalidInput(
            f"{origin.source}: the tokenizer has {ids} ids but the embedding has only {rows} rows, so some "
            "tokens have no vector; use the tokenizer that belongs to these weights, or resize the embedding"
        )
    if ids < rows:
        padding = "%s: the embedding has %d rows for %d token ids; the last %d are padding and stay untouched"
        log.warning(padding, origin.source, rows, ids, rows - ids)
    weights = weights_digest(folder)
    reference = BaseReference(
        source=origin.source,
        revision=origin.revision or weights,
        weights_digest=weights,
        tokenizer_digest=tokenizer_digest(folder),
        tokenizer_length=ids,
        embedding_rows=rows,
        chat_template_digest=sha256_of_text(template),
        architecture=model_config.architectures[0],
    )
    metrics: dict[str, object] = {
        "parameters": model.parameters,
        "bytes": model.nbytes,
        "dtype": ", ".join(model.dtypes),
        "unused_embedding_rows": rows - ids,
    }
    if origin.file_sha256:
        metrics["origin_file_sha256"] = origin.file_sha256
    return reference, metrics


def read_model_config(folder: Path, name: str) -> PretrainedConfig:
    """The model's configuration; refuses remote code, quantized weights and other than causal models."""
    file = folder / "config.json"
    if not file.is_file():
        raise InvalidInput(f"{name}: no config.json; expected a Hugging Face model directory")
    raw = json.loads(file.read_text())
    if "auto_map" in raw:
        raise InvalidInput(
            f"{name}: its config.json asks for the repository's own Python code (auto_map), which is never "
            "run here; use a base whose architecture transformers has built in"
        )
    if "quantization_config" in raw:
        method = raw["quantization_config"].get("quant_method", "unknown")
        raise InvalidInput(
            f"{name}: its weights are already quantized ({method}); expected 16- or 32-bit weights: "
            "use the model that it was made from"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises ValueError, KeyError, TypeError and its validators' own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInput(
            f"{name}: transformers cannot load this model with this config.json: {reason}"
        ) from error
    architecture = (config.architectures or ["no architecture"])[0]
    is_causal = type(config) in AutoModelForCausalLM._model_mapping
    if not is_causal or not architecture.endswith(CAUSAL):
        raise InvalidInput(
            f"{name}: its architecture is {architecture}, not a causal language model; "
            "expected a decoder such as LlamaForCausalLM"
        )
    return config


def _chat_template(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    if not tokenizer.chat_template:
        raise InvalidInput(
            f"{name}: the tokenizer has no chat template; write one in Jinja to a file and set "
            "base.chat_template to its path"
        )
    try:
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": "ping"}], tokenize=False)
        template: str = tokenizer.get_chat_template()
    except Exception as error:  # a template is a program: it may divide by zero, call itself for ever, …
        reason = str(error) or type(error).__name__
        raise InvalidInput(
            f"{name}: its chat template fails on one user message: {reason}; "
            "set base.chat_template to one that works"
        ) from error
    if "ping" not in rendered:
        raise InvalidInput(f"{name}: its chat template drops the user's message; set base.chat_template")
    return template


def _embedding_rows(config: PretrainedConfig, headers: dict[str, TensorHeader], name: str) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    embedding = model.get_input_embeddings().weight
    full = next(key for key, value in model.named_parameters() if value is embedding)
    bare = full.removeprefix(f"{model.base_model_prefix}.")
    stored = next((headers[key] for key in (full, bare) if key in headers), None)
    if stored is None:
        raise InvalidInput(
            f"{name}: the weights hold no input embedding {full!r}; "
            "expected the complete model in safetensors files"
        )
    return stored.shape[0]


def _give_chat_template(template: Path, out: Path) -> None:
    try:
        text = template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"base.chat_template {template}: cannot be read as UTF-8 text: {error}") from error
    settings = out / "tokenizer_config.json"
    values = json.loads(settings.read_text())
    values.pop("chat_template", None)
    settings.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    (out / "chat_template.jinja").write_text(text, encoding="utf-8")


def _forget_local_names(out: Path) -> None:
    file = out / "config.json"
    if not file.is_file():
        return
    values = json.loads(file.read_text())
    if values.pop("_model_name_or_path", None) is not None:
        file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
