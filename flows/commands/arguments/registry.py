"""The arguments of `tuneline artifacts`, `endpoints`, `rollback` and of what serves; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

REFERENCE = "an id, its first 6 or more digits, NAME@VERSION or a channel"
KINDS = ("base", "dataset", "adapter", "merged", "quantized", "evaluation")
Add = Callable[..., argparse.ArgumentParser]


def add_registry_commands(add: Add, group: Callable[..., Any]) -> None:
    """`artifacts …`, `endpoints …`, `rollback`, `api`, `metrics` and `ui`."""
    artifacts = group("artifacts", "what the registry holds")
    listing = add("ls", "registry.artifacts:ls", "list artifacts, newest first", artifacts)
    listing.add_argument("--kind", choices=KINDS)
    listing.add_argument("--limit", type=int, default=50, help="rows (default 50)")
    for name, text in (
        ("show", "one artifact: base reference, quantization, files, metrics"),
        ("lineage", "what an artifact was made from"),
    ):
        command = add(name, f"registry.artifacts:{name}", text, artifacts)
        command.add_argument("ref", help=REFERENCE)
    _add_export_commands(add, artifacts)
    _add_import_commands(add, artifacts)
    _add_gc_command(add, artifacts)

    endpoints = group("endpoints", "running engines")
    add("ls", "serving.endpoints:ls", "list endpoints", endpoints)
    stop = add("stop", "serving.endpoints:stop", "stop an endpoint", endpoints)
    stop.add_argument("id")
    stop.add_argument("--gateway", action="store_true", help="end a gateway, with all of its engines")

    text = "move a channel back to what it pointed to before"
    back = add("rollback", "gates.channels:rollback", text)
    back.add_argument("channel")
    back.add_argument("--reason", required=True, help="kept in the channel's history")
    _add_servers(add)


def _add_servers(add: Add) -> None:
    api = add("api", "api:api", "serve the registry over HTTP, read-only")
    api.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    api.add_argument("--port", type=int, default=8700, help="0: a free one (default 8700)")

    metrics = add("metrics", "metrics:metrics", "serve the registry's numbers to Prometheus")
    metrics.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    metrics.add_argument("--port", type=int, default=9091, help="0: a free one (default 9091)")
    metrics.add_argument(
        "--rates", type=Path, metavar="FILE", help="prices, to compute costs from (default: TUNELINE_RATES)"
    )

    ui = add("ui", "ui:ui", "serve the web interface")
    ui.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    ui.add_argument("--port", type=int, default=8710, help="0: a free one (default 8710)")
    ui.add_argument(
        "--behind-tls",
        action="store_true",
        help="browsers reach it through TLS: its cookies need that",
    )


def _add_gc_command(add: Add, artifacts: Any) -> None:
    text = "free the files of artifacts that nothing needs; their records stay. Without --delete, only say so"
    gc = add("gc", "registry.artifacts:gc", text, artifacts)
    gc.add_argument("--delete", action="store_true", help="do it")
    gc.add_argument("--why", metavar="REF", help=f"say why this artifact keeps its files: {REFERENCE}")
    gc.add_argument(
        "--keep-days", type=float, default=14.0, help="keep what was made in so many days (default 14)"
    )
    gc.add_argument(
        "--history", type=int, default=10, help="keep what each channel's last events had (default 10)"
    )
    gc.add_argument("--cache", action="store_true", help="also empty this machine's cache of an object store")


def _add_import_commands(add: Add, artifacts: Any) -> None:
    """Bring in what was made elsewhere, and ask what goes together."""
    adopt = "adopt a PEFT adapter, a merged model, a GPTQ directory or a GGUF file"
    bring = add("import", "registry.imports:artifacts_import", adopt, artifacts)
    bring.add_argument("path", type=Path, help="a directory, or a .gguf file")
    kinds = ["base", "adapter", "merged", "quantized"]
    bring.add_argument("--kind", choices=kinds, help="default: what the files are")
    whose = f"what it was made for: {REFERENCE}; or hub:ORG/NAME@COMMIT, path:DIRECTORY"
    bring.add_argument("--base", metavar="REF", help=whose)
    bring.add_argument("--name", help="a name for it, such as support; it gets the next version")

    explain = "explain, from metadata alone, whether two artifacts and an engine go together"
    compat = add("compat", "registry.imports:artifacts_compat", explain, artifacts)
    compat.add_argument("a", help=REFERENCE)
    compat.add_argument("b", nargs="?", help="what is to be put on A, or was made from it")
    compat.add_argument("--engine", choices=["vllm", "llama.cpp"], help="check this engine's limits too")
    compat.add_argument("--context-length", type=int, metavar="N", help="tokens that will be asked for")
    compat.add_argument("--max-rank", type=int, metavar="N", help="the engine's largest adapter rank")
    compat.add_argument("--strict", action="store_true", help="exit code 3 also for what is not known")


def _add_export_commands(add: Add, artifacts: Any) -> None:
    """Hand an artifact on, and check what was handed on."""
    signed = "write an artifact to a signed directory"
    export = add("export", "registry.export:export", signed, artifacts)
    export.add_argument("ref", help=REFERENCE)
    export.add_argument(
        "out", type=Path, help="a new directory, with model card, SBOM, lineage and signature"
    )
    whose = "EC P-256 private key to sign with (default: TUNELINE_SIGNING_KEY, else the registry's own)"
    export.add_argument("--key", type=Path, metavar="PEM", help=whose)
    reread = "read every byte again and compare it with its digest"
    verify = add("verify", "registry.export:verify", reread, artifacts)
    verify.add_argument("ref", help=f"{REFERENCE}; or an exported directory, which needs no registry")
    whose = "of whoever exported the directory: checks the signature"
    verify.add_argument("--public-key", type=Path, metavar="PEM", help=whose)
