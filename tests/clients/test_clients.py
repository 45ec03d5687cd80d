"""Client libraries that others wrote ask a gateway, each as its documentation says: `make test-clients`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.seconds import seconds
from tests.serving.gateway.live_gateway import Gateway

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = CHECKOUT / ".venv-clients" / "bin" / "python"
LIBRARIES = (
    "openai",
    "openai-async",
    "openai-responses",
    "langchain",
    "langchain-responses",
    "llama-index",
    "instructor",
    "litellm",
    "llm",
    "pydantic-ai",
    "pydantic-ai-responses",
)
NO_PLAIN_TEXT = ("instructor",)
NO_SCHEMA = ("openai-async", "llama-index", "instructor")
"""Asked through another of its ways, or has none; instructor's answer without tools is held to a schema."""
BOOKING = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Lima"]}, "guests": {"enum": [1, 2, 3]}},
    "required": ["city", "guests"],
    "additionalProperties": False,
}
pytestmark = pytest.mark.clients


def asked(gateway: Gateway, library: str, *options: str) -> dict[str, Any]:
    if not PYTHON.exists():
        pytest.skip("make test-clients")
    command = [PYTHON, CHECKOUT / "tests" / "clients" / "ask.py", library, gateway.url, gateway.keys["mine"]]
    quiet = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DO_NOT_TRACK": "1",
        "LLM_USER_PATH": str(gateway.config.parent),
    }
    done = subprocess.run(
        [*command, "team/mine", *options],
        capture_output=True,
        text=True,
        timeout=seconds(120),
        env={"PATH": os.environ["PATH"], "HOME": str(gateway.config.parent), **quiet},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.rindex('{"text"') :])
    return found


@pytest.mark.parametrize("options", [(), ("--stream",)], ids=["whole", "stream"])
@pytest.mark.parametrize("library", [name for name in LIBRARIES if name not in NO_PLAIN_TEXT])
def test_text(gateway: Gateway, library: str, options: tuple[str, ...]) -> None:
    found = asked(gateway, library, *options)
    assert found["text"]
    assert not found["calls"]


@pytest.mark.parametrize("options", [(), ("--stream",)], ids=["whole", "stream"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_tools(gateway: Gateway, library: str, options: tuple[str, ...]) -> None:
    found = asked(gateway, library, "--tools", *options)
    if library == "llm":
        assert found["text"] or found["calls"]
        return
    for name, arguments in found["calls"]:
        assert name == "book"
        jsonschema.validate(arguments, BOOKING)
    assert found["calls"], found


@pytest.mark.parametrize("library", [*(name for name in LIBRARIES if name not in NO_SCHEMA), "instructor"])
def test_an_answer_that_fits_a_schema(gateway: Gateway, library: str) -> None:
    options = () if library == "instructor" else ("--schema",)
    jsonschema.validate(json.loads(asked(gateway, library, *options)["text"]), BOOKING)


@pytest.mark.parametrize("library", ["openai-embeddings", "langchain-embeddings", "litellm-embeddings"])
def test_embeddings(gateway: Gateway, library: str) -> None:
    found = json.loads(asked(gateway, library)["text"])
    assert found["lengths"] == pytest.approx([1, 1], abs=1e-4)
    assert found["apart"] > 0.01
