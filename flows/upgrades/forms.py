"""A channel's recipe in another form of what it serves."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from flows.errors import Usage
from flows.recipe import Recipe
from stages.quantization import METHODS, method_of
from stages.quantization.gguf import GgufConfig
from stages.quantization.method import QuantizationConfig

STORED = "16bit"
"""The form of weights that are not quantized."""
Form = QuantizationConfig | None
"""None: the weights as they are stored."""


def form_of(text: str) -> Form:
    """What `--quant` names. Raises `Usage`."""
    if text.lower() == STORED:
        return None
    for method in METHODS:
        if text.lower() == method.tag:
            config: QuantizationConfig = method.config()
            return config
    try:
        return GgufConfig(type=text.upper())
    except ValidationError as error:
        others = ", ".join(method.tag for method in METHODS)
        raise Usage(
            f"--quant {text[:40]}: {error.errors()[0]['msg'].removeprefix('Value error, ')}; expected a GGUF "
            f"type such as Q4_K_M, {STORED}, or a method as it usually is ({others})"
        ) from None


def served_as(recipe: Recipe) -> tuple[object, ...]:
    """What its channel gets, but for what it learns: the base, and the form of it."""
    assert recipe.promote is not None
    source, candidate = recipe.base.source, recipe.promote.candidate
    form = next((config for config in recipe.quantize if config.label == candidate), None)
    name = source.partition("@")[0] if source.startswith("hub:") else source
    return name, candidate, form, recipe.adapter if is_apart(recipe) else None


def is_apart(recipe: Recipe) -> bool:
    """Whether the channel is offered the adapter alone."""
    return recipe.promote is not None and recipe.promote.candidate == "adapter"


def beside_adapters(form: Form) -> bool:
    """Whether a base in this form is one that adapters are loaded over."""
    return form is None or method_of(form).takes_adapters


def in_form(recipe: Recipe, form: Form, *, apart: bool) -> Recipe:
    """The recipe whose channel gets this form: of the base, with the adapter apart, or of the whole model.

    An entry of the recipe's own that makes this form is kept as it is.
    """
    known = next(
        (config for config in recipe.quantize if form is not None and config.label == form.label), form
    )
    changed: dict[str, Any] = {"deploy": recipe.deploy}
    if apart:
        adapter_type = recipe.adapter.type if recipe.adapter is not None and form is not None else None
        changed["adapter"] = {"base": STORED if form is None else form.form, "type": adapter_type}
        candidate = "adapter"
    else:
        changed |= {"adapter": None, "quantize": () if known is None else (known,), "deploy": None}
        candidate = "merged" if known is None else known.label
    assert recipe.promote is not None
    changed["promote"] = recipe.promote.model_copy(update={"candidate": candidate})
    return Recipe.model_validate({**dict(recipe), **changed})
