"""Client libraries that others wrote ask a gateway, each as its documentation says: `make test-clients`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flows.exchange.artifact_import import adopt
from flows.exchange.bring_base import resolved
from registry import Registry
from stages.config.base import BaseConfig
from tests.seconds import seconds
from tests.serving.canaries import kept_family
from tests.serving.gateway.live_gateway import LLAMA, Gateway, running
from tests.serving.populated_registry import PopulatedRegistry, quantized
from tests.stages.backends.templates import CHATML_TOOLS

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = CHECKOUT / ".venv-clients" / "bin" / "python"
LIBRARIES = (
    "openai",
    "openai-async",
    "langchain",
    "llama-index",
    "instructor",
    "litellm",
    "llm",
    "pydantic-ai",
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


@pytest.fixture(scope="module")
def gateway(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A tenant's adapter over a base whose chat template has tools."""
    if not PYTHON.exists():
        pytest.skip("make test-clients")
    folder = tmp_path_factory.mktemp("clients")
    home, template = folder / "home", folder / "tools.jinja"
    template.write_text(CHATML_TOOLS)
    canary = kept_family(pytestconfig.rootpath, 3).canaries[0]
    with Registry.open(home) as registry:
        config = BaseConfig(source="pico:0", chat_template=str(template))
        base = resolved(registry, config, home / "resolve.log")
        gguf = quantized(registry, {"model": base})
        registry.name(gguf.id, "pico-tools")
        peft = adopt(registry, canary.peft, base=base.id).artifact
        adapter = quantized(registry, {"model": peft, "base": base})
    populated = PopulatedRegistry(home, base.id, gguf.id, (), "")
    with running(populated, folder, [LLAMA | {"model": "pico-tools@1", "context_length": 1024}]) as found:
        found.tenant("mine", adapter.id)
        yield found


def asked(gateway: Gateway, library: str, *options: str) -> dict[str, Any]:
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
