"""A gateway that clients ask, whose model's chat template has tools."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flows.exchange.artifact_import import adopt
from flows.exchange.bring_base import resolved
from registry import Registry
from stages.config.base import BaseConfig
from tests.serving.canaries import kept_family
from tests.serving.gateway.live_gateway import LLAMA, Gateway, running
from tests.serving.populated_registry import PopulatedRegistry, quantized
from tests.stages.backends.templates import CHATML_TOOLS


@pytest.fixture(scope="package")
def gateway(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A tenant's adapter over a base whose chat template has tools."""
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
    with running(populated, folder, [LLAMA | {"model": "pico-tools@1", "context_length": 2048}]) as found:
        found.tenant("mine", adapter.id)
        yield found
