"""What an evaluation was computed with, as it recorded it: engine, form of the weights, their type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.quantization import STORED
from stages.quantization import METHODS

_COMPUTED = re.compile(r"computed in (\w+)")
_STORED = re.compile(r"(\w+) (?:weights|scales)\b")
_FORMS = {"NF4": "nf4"} | {method.name: method.tag for method in METHODS if STORED[method.tag].is_packed}
"""How `computed_with` begins → the form's name in a policy, of weights that torch reads."""
_VERSION = re.compile(r" with transformers \S+?(?=,| on |$)| \(llama-cpp-python [^)]*\)| on c(?:pu|uda)$")


@dataclass(frozen=True)
class Measured:
    """`form`: `NF4`, `GPTQ`, `weights` or a GGUF type; `dtype`: of the products, None in llama.cpp."""

    engine: str
    form: str
    dtype: str | None
    adapter: bool
    device: str

    @property
    def quant(self) -> str:
        """As a policy's limits call it; of a GGUF the first letters of its type."""
        return _FORMS.get(self.form, self.form if self.engine == "llama.cpp" else "none")


def measured(description: str | None) -> Measured | None:
    """What `computed_with` says; None where it says nothing that is known."""
    description = description or ""
    adapter, device = "with a LoRA adapter" in description, description.rpartition(" on ")[2]
    if description.startswith("GGUF "):
        return Measured("llama.cpp", description.split()[1], None, adapter, device)
    computed, stored = _COMPUTED.findall(description), _STORED.search(description)
    dtype = computed[-1] if computed else stored[1] if stored else None
    form = next((name for name in _FORMS if description.startswith(name)), "weights")
    if dtype is None:
        return None
    if form == "weights" and device == "cuda" and stored:
        form = f"{stored[1]} weights"  # a GPU computes in the type that is stored
    return Measured("torch", form, dtype, adapter, device)


def differing_arithmetic(ours: str | None, theirs: str | None) -> str | None:
    """Why two measurements of one form of weights are not alike, or None.

    A file and its parent are compared across engines, and NF4 with what is stored: that is what a gate is
    about. Two forms that are the same, computed in two types, differ by their rounding alone.
    """
    one, other = measured(ours), measured(theirs)
    if one is None or other is None or one.form != other.form or one.dtype == other.dtype:
        return None
    return (
        f"one side was computed in {one.dtype}, the other in {other.dtype} ({ours}; {theirs}): evaluate both "
        "again in one type (compute_dtype), so that rounding is no difference between them"
    )


def recorded(description: str | None) -> str:
    """`computed_with` without versions and device, for a sentence."""
    text = description or "how it was computed is not recorded"
    while (shorter := _VERSION.sub("", text)) != text:
        text = shorter
    return text
