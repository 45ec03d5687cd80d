"""What one tenant learns of another, what is left lying about, and what a wrong serve.yaml says."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flows import cli
from registry import Registry
from serving.gateway import tracing
from serving.gateway.metrics import Metrics
from tests.serving.gateway.live_gateway import ANSWER, CHECKOUT, LLAMA, SLOWEST, Gateway, running, until
from tests.serving.populated_registry import PopulatedRegistry, kept_registry

LONG = "Tell me a story about the sea, and take your time. " * 3


@pytest.fixture(scope="module")
def gateway(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("isolation")
    populated = kept_registry(pytestconfig.rootpath, folder / "home", 3)
    with running(populated, folder, [LLAMA | {"adapters": 2}]) as found:
        for name in ("alder", "birch"):  # one artifact for both
            found.tenant(name, populated.adapters[0].gguf)
        found.tenant("cedar", populated.adapters[1].gguf)
        yield found


def cached(gateway: Gateway, name: str) -> int:
    """Tokens of the prompt that were still in the engine."""
    messages: Any = [{"role": "user", "content": LONG}]
    chat = gateway.client(gateway.keys[name]).chat
    said = chat.completions.create(model=f"team/{name}", messages=messages, **ANSWER)
    assert said.usage is not None
    assert said.usage.prompt_tokens_details is not None
    return said.usage.prompt_tokens_details.cached_tokens or 0


def test_no_tenant_finds_what_another_left_in_the_prefix_cache(gateway: Gateway) -> None:
    """Both have the same adapter, and send the same prompt: whether it is cached would tell it was asked."""
    assert cached(gateway, "alder") == 0
    assert cached(gateway, "alder") > 50, "its own is used again"
    assert cached(gateway, "birch") == 0
    assert cached(gateway, "birch") > 50
    assert cached(gateway, "cedar") == 0


def test_a_refusal_names_nobody_else(gateway: Gateway) -> None:
    """Whatever goes wrong for one tenant, only its own names are in what it is told."""
    gateway.tenant("stranger", gateway.populated.stranger)
    others = [
        "alder",
        "birch",
        "cedar",
        *(adapter.gguf[:12] for adapter in gateway.populated.adapters),
        str(gateway.populated.home),
    ]
    said = []
    client = gateway.client(gateway.keys["stranger"])
    for model in ("team/alder", "team/stranger", "team/nobody"):
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(model=model, prompt="a")
        said.append(caught.value.response.text.replace(f"'{model}'", ""))
    assert [other for other in others for text in said if other in text] == []
    assert "incompatible_artifact" in said[1]
    assert said[0] == said[2]


def test_an_unknown_key_and_a_revoked_one_are_told_the_same(gateway: Gateway) -> None:
    """Of a revoked key the gateway keeps nothing, so it cannot take another path than an unknown one."""
    key = gateway.tenant("gone", gateway.populated.adapters[0].gguf)
    gateway.registry.tenants.revoke("gone", "tests")
    until(lambda: gateway.get("/models", key).status_code == 401, "the gateway knows it")
    unknown = key[:-1] + ("A" if key[-1] != "A" else "B")
    texts = {gateway.get("/models", one).text for one in (key, unknown, "tl-nothing", "x")}
    assert len(texts) == 1
    assert not any(found.tenant == "gone" for found in gateway.registry.serving_state().keys.values())


def test_keys_are_nowhere(gateway: Gateway) -> None:
    """Not in the registry, the logs, the metrics, the audit, or any process's arguments or environment."""
    key = gateway.keys["alder"]
    _, second = gateway.registry.tenants.rotate("alder", "tests", timedelta(hours=1))
    until(lambda: gateway.get("/models", second).status_code == 200, "the new key works")
    secrets = [text.split("-", 2)[2].encode() for text in (key, second)]
    held = b"".join(path.read_bytes() for path in gateway.populated.home.glob("registry.db*"))
    held += b"".join(
        path.read_bytes() for path in (gateway.populated.home / "logs").rglob("*") if path.is_file()
    )
    held += gateway.log.read_bytes()
    held += httpx.get(f"{gateway.operations}/metrics").content
    held += repr(gateway.registry.tenants.audit()).encode()
    for process in gateway.processes():
        held += " ".join(process.cmdline()).encode() + repr(process.environ()).encode()
    assert len(held) > 100_000
    assert not any(secret in held for secret in secrets)
    assert gateway.registry.tenants.get("alder").salt.encode() not in gateway.log.read_bytes()


def test_the_engines_sockets_are_their_owners_only(gateway: Gateway) -> None:
    links = [link for engine in gateway.engines() for link in engine.net_connections("all")]
    sockets = [Path(link.laddr) for link in links if "tuneline-" in str(link.laddr)]
    kinds = {path.suffix for path in sockets}
    assert kinds == {".api", ".control"}
    for folder in {path.parent for path in sockets}:
        found = folder.stat()
        assert stat.S_IMODE(found.st_mode) == 0o700
        assert found.st_uid == os.getuid()
    assert not [link for link in links if link.status == psutil.CONN_LISTEN], "no port of any network"


def test_a_new_registry_is_its_owners_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Registry.open(home).close()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_labels_of_metrics_are_bounded_and_escaped() -> None:
    metrics = Metrics(200)
    for number in range(300):
        metrics.requests.labels(metrics.tenant(f"tenant-{number}"), 200, "live").inc()
    metrics.requests.labels(metrics.tenant("other"), 200, "live").inc()
    metrics.rejections.labels('a"b\\\n} 1\n', "why").inc()
    families = {one.name: one for one in text_string_to_metric_families(metrics.text().decode())}
    samples = [s for s in families["tuneline_gateway_requests"].samples if s.name.endswith("_total")]
    assert len(samples) == 201
    assert sum(s.value for s in samples) == 301
    assert next(s.value for s in samples if s.labels["tenant"] == "(other)") == 101
    (refused, *_) = families["tuneline_gateway_rejections"].samples
    assert refused.labels["tenant"] == 'a"b\\\n} 1\n'


def test_nothing_is_traced_where_nobody_collects(gateway: Gateway) -> None:
    """opentelemetry-api is installed here, as a dependency of others; the gateway does not even load it."""
    loaded = "import sys, serving.gateway.server; sys.exit('opentelemetry' in str(sys.modules))"
    assert subprocess.run([sys.executable, "-c", loaded], cwd=CHECKOUT).returncode == 0
    tracing.record("/v1/models", None, 0.1, {})
    assert tracing.SDK not in sys.modules


TRACED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from serving.gateway import tracing

spans = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
tracing.record("/v1/chat/completions", traceparent, 0.25, {"status": 200, "tenant": "acme", "parts": ["a"]})
(span,) = spans.get_finished_spans()
assert (span.name, span.kind) == ("/v1/chat/completions", trace.SpanKind.SERVER)
assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
assert span.end_time - span.start_time == 250_000_000
assert dict(span.attributes) == {"tuneline.status": 200, "tuneline.tenant": "acme"}
"""


def test_a_request_is_a_span_of_its_callers_trace() -> None:
    """In a process of its own, as an SDK is set up once for all."""
    done = subprocess.run([sys.executable, "-c", TRACED], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Mistakes in serve.yaml


@pytest.fixture(scope="module")
def quiet(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> PopulatedRegistry:
    return kept_registry(pytestconfig.rootpath, tmp_path_factory.mktemp("mistakes") / "home", 3)


def serve(populated: PopulatedRegistry, folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """`tuneline serve`, which is to end by itself."""
    config = folder / "serve.yaml"
    config.write_text(text)
    environment = os.environ | {"TUNELINE_HOME": str(populated.home)}
    argv = [sys.executable, "-m", "flows.cli", "serve", str(config)]
    return subprocess.run(
        argv, capture_output=True, text=True, cwd=CHECKOUT, env=environment, timeout=SLOWEST
    )


ENGINE = "{engine: llama.cpp, model: %s, context_length: 256, threads: 1}"
PORTS = "gateway: {port: 0}\noperations: {port: 0}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "engines"),
        ("engines: []", "engines"),
        ("- engines", "serve.yaml"),
        ("engines: [", "line 1"),
        (PORTS + "gateway: {port: 1}\nengines: [%s]" % (ENGINE % "x"), "duplicate key 'gateway'"),
        (PORTS + "engine: 1\nengines: [%s]" % (ENGINE % "x"), "engine"),
        (PORTS + "engines: [{engine: ollama, model: x}]", "llama.cpp"),
        (PORTS + "engines: [{engine: llama.cpp}]", "model"),
        (PORTS + "engines: [{engine: llama.cpp, model: x, parallel: many}]", "parallel"),
        (PORTS + "bounds: {n: 99}\nengines: [%s]" % (ENGINE % "x"), "bounds.n"),
        ("gateway: {port: 99999}\nengines: [%s]" % (ENGINE % "x"), "gateway.port"),
    ],
)
def test_a_file_that_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(text)
    assert cli.main(["serve", str(config)]) == 3
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
    assert not told.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PORTS + "engines: [%s]" % (ENGINE % "nothing@1"), "nothing@1"),
        (PORTS + "engines: [%s]" % (ENGINE % "team/never"), "team/never"),
        (PORTS + "engines: [%s]" % (ENGINE % "ADAPTER"), "is an adapter; expected the base"),
        (PORTS + "engines: [%s]" % (ENGINE % "BASE"), "llama.cpp cannot serve this base model"),
        ("gateway: {port: TAKEN}\noperations: {port: 0}\nengines: [%s]" % (ENGINE % "pico-base@1"),
         "is taken by"),
        ("gateway: {host: 203.0.113.7, port: 0}\noperations: {port: 0}\nengines: [%s]"
         % (ENGINE % "pico-base@1"), "cannot listen on 203.0.113.7"),
        (PORTS + "engines: [%s]" % (ENGINE.replace("256", "65536") % "pico-base@1"), "context_length"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_leaves_nothing_running(
    quiet: PopulatedRegistry, gateway: Gateway, tmp_path: Path, text: str, said: str
) -> None:
    adapter = quiet.adapters[0]
    taken = gateway.url.rsplit(":", 1)[1].removesuffix("/v1")
    text = text.replace("ADAPTER", adapter.gguf).replace("BASE", quiet.base).replace("TAKEN", taken)
    ended = serve(quiet, tmp_path, text)
    assert ended.returncode == 3, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not ended.stdout
    messages = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert len([line for line in messages if line.startswith("tuneline")]) <= 1
    with Registry.open(quiet.home) as registry:
        assert not registry.endpoints.ls(running_only=True)


def test_a_gateway_that_the_network_reaches_says_that_it_has_no_tls(
    quiet: PopulatedRegistry, tmp_path: Path
) -> None:
    everywhere = {"gateway": {"host": "0.0.0.0", "port": 0}, "operations": {"host": "0.0.0.0", "port": 0}}
    with running(quiet, tmp_path, [LLAMA, LLAMA], **everywhere) as found:  # one base twice: both serve
        key = found.tenant("loud", quiet.adapters[0].gguf)
        assert found.get("/models", key).status_code == 200
        warned = [json.loads(line) for line in found.log.read_text().splitlines() if '"warning"' in line]
        assert found.ask("loud")[1] == quiet.adapters[0].gguf
    assert [one["message"].split(" ")[:2] for one in warned] == [["the", "gateway"], ["operations", "listen"]]
    assert "TLS" in warned[0]["message"]
