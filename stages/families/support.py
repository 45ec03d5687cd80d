"""What a family of models can be put through, known before any work from names alone.

`tests.reliability.families` takes a tiny model of each family of `stages.families.blocks` through the stages
for real; what does not come through stands here with its reason. A family that is not in that table may be
trained; GPTQ, whose library has a definition of its own for each family, is refused.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from stages.errors import InvalidInput
from stages.families.blocks import BLOCKS
from stages.families.config_names import CAUSAL

NO_TRAINING: Mapping[str, str] = {
    "falcon": "its layers are of a class of their own, which transformers does not load in 4 bits",
}
"""`model_type` → why it does not come through training and merging."""

NO_GPTQ: Mapping[str, str] = {
    "gpt_neox": "GPTQModel does not find the head under the name that transformers gives it",
    "gpt_oss": "GPTQModel takes its experts' biases apart, and the contract refuses the file at its base",
}
"""`model_type` → why it does not come through GPTQModel 7.6, which knows it by name."""


def base_refusal(family: str, architecture: str) -> str | None:
    """Why a base of this `model_type` and class cannot be used at all; None where nothing speaks against it.

    An empty family (a GGUF names none) is not known and not refused.
    """
    if not family:
        return None
    if not architecture.endswith(CAUSAL):
        return f"its architecture is {architecture}, not a causal language model such as LlamaForCausalLM"
    models = known_to_transformers()
    if models is not None and family not in models:
        return f"transformers has no causal language model of model_type {family} built in"
    return training_refusal(family)


def training_refusal(family: str) -> str | None:
    """Why no adapter can be trained for it, or None."""
    reason = NO_TRAINING.get(family)
    return f"model_type {family} cannot be trained here ({reason})" if reason else None


def gptq_refusal(family: str) -> str | None:
    """Why GPTQ cannot be had of it, or None; None for all where GPTQModel is not installed."""
    families = known_to_gptqmodel()
    if not family or families is None:
        return None
    if family not in families:
        reason = "GPTQModel does not know this family"
    elif family in NO_GPTQ:
        reason = NO_GPTQ[family]
    elif family not in BLOCKS:
        reason = "it is untested with this version"
    else:
        return None
    return f"model_type {family} cannot be quantized with GPTQ here ({reason})"


def gguf_refusal(family: str, architecture: str) -> str | None:
    """Why llama.cpp cannot have it, or None; None for all while its converter is not installed."""
    architectures = known_to_llama_cpp()
    if not family or architectures is None or architecture in architectures:
        return None
    return f"llama.cpp's converter does not know {architecture}"


def require_quantizable(family: str, source: str) -> None:
    """Raise `InvalidInput` by name where GPTQ cannot be had of this `model_type`."""
    if reason := gptq_refusal(family):
        raise InvalidInput(f"{source}: {reason}; try method: gguf, or serve it in 16 bits")


@lru_cache
def known_to_gptqmodel() -> frozenset[str] | None:
    """The `model_type`s of GPTQModel's own table; None where it is not installed."""
    return _keys("gptqmodel", "models/auto.py", "MODEL_MAP")


@lru_cache
def known_to_transformers() -> frozenset[str] | None:
    """The `model_type`s of which transformers has a causal language model; None where it is not installed."""
    return _keys("transformers", "models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


@lru_cache
def known_to_llama_cpp() -> frozenset[str] | None:
    """The classes that llama.cpp's converter reads; None where it is not installed."""
    from stages.formats.converter_source import home

    return _keys_in(home() / "conversion" / "__init__.py", "TEXT_MODEL_MAP")


def _keys(package: str, module: str, name: str) -> frozenset[str] | None:
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else _keys_in(Path(spec.origin).parent / module, name)


def _keys_in(file: Path, name: str) -> frozenset[str] | None:
    """Keys of a module's dictionary: a literal, an OrderedDict of pairs, and what is added to it.

    Read from the source, since importing any of these packages loads torch and takes seconds.
    """
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError):
        return None
    return frozenset(key for node in ast.walk(tree) for key in _assigned(node, name)) or None


def _assigned(node: ast.AST, name: str) -> Iterator[str]:
    """The keys that one statement gives the dictionary `name`."""
    if isinstance(node, ast.Assign):
        target, value = node.targets[0], node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        target, value = node.target, node.value
    else:
        return
    keys: list[ast.expr | None] = []
    if isinstance(target, ast.Subscript) and ast.unparse(target.value) == name:
        keys = [target.slice]
    elif ast.unparse(target) == name and isinstance(value, ast.Dict):
        keys = list(value.keys)
    elif ast.unparse(target) == name and isinstance(value, ast.Call):
        keys = [pair.elts[0] for pair in ast.walk(value) if isinstance(pair, ast.Tuple)]
    for key in keys:
        if isinstance(key, ast.Constant):
            yield str(key.value)
