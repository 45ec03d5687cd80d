"""The quantization methods. To add one: a module here, a line in `METHODS`, and a row in the registry's table
(`registry/quantization.py`).

method        what each is asked
gptq, gguf    one method each
distance      how far quantization usually takes a model from its parent
snippets      how a model is loaded, as text for its card
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from registry.artifacts import QuantSpec
from stages.quantization.gguf import Gguf
from stages.quantization.gptq import Gptq
from stages.quantization.method import QuantizationConfig, QuantizationMethod

METHODS: tuple[QuantizationMethod[Any], ...] = (
    Gptq(),
    Gguf(),
)

if TYPE_CHECKING:
    QuantizeConfig = QuantizationConfig
else:
    QuantizeConfig = Annotated[
        functools.reduce(operator.or_, (method.config for method in METHODS)), Field(discriminator="method")
    ]
"""The config of any method, as a recipe holds it."""


def method_of(config: QuantizationConfig) -> QuantizationMethod[Any]:
    """The method that a config is for."""
    return next(method for method in METHODS if method.tag == config.method)


def method_that_made(quant: QuantSpec | None) -> QuantizationMethod[Any] | None:
    """The method that a manifest names; None for weights of 16 bits, and for an adapter trained over NF4."""
    return next((method for method in METHODS if quant is not None and method.tag == quant.method), None)
