"""The command `tuneline`. `--help` and `check` load no heavy library."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from flows.commands.gate_arguments import add_gate_commands, implied_action
from flows.commands.tenant_arguments import add_tenant_commands
from flows.wording import as_typed

EXIT_CODES = """exit codes:
  0  done, or the gate passed
  1  the gate failed
  2  the gate has not enough evidence
  3  invalid input; the message says what to change
  4  internal error; --debug shows where
  130  interrupted, by Ctrl-C or SIGTERM; the same command again goes on from there"""

REFERENCE = "an id, its first 6 or more digits, NAME@VERSION or a channel"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Wrong arguments are invalid input: argparse's own 2 would say that a gate lacks evidence."""
        self.print_usage(sys.stderr)
        self.exit(3, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = _Parser(
        prog="tuneline",
        description="From fine-tune to serve with QLoRA, with proof at every step.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON document to stdout")
    common.add_argument("--debug", action="store_true", help="show stack traces")
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, call: str, text: str, into: Any = verbs) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = into.add_parser(
            name, help=text, description=text, parents=[common]
        )
        command.set_defaults(call=call)
        return command

    for name, text in (
        ("run", "run a recipe from data to endpoint; what is known already is not done again"),
        ("check", "validate a recipe and estimate memory, disk and time, without loading weights"),
    ):
        command = add(name, f"flows.commands.{name}:{name}", text)
        command.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="override a key; repeatable"
        )
    _add_stage_commands(add)
    _add_registry_commands(add, verbs)
    return top


def _add_stage_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """One stage on plain directories; the options name its inputs."""
    for stage, text, needed, optional in (
        ("prepare", "prepare a dataset for a base model's chat template", ("base",), ()),
        ("merge", "merge a PEFT adapter into a 16-bit base model", ("base", "adapter"), ()),
        (
            "quantize",
            "quantize a 16-bit model to GPTQ or GGUF, or an adapter to GGUF",
            ("model",),
            ("dataset", "base"),
        ),
        ("evaluate", "measure a model directory or a GGUF file", ("model",), ("dataset", "adapter", "base")),
    ):
        command = add(stage, "flows.commands.run:stage", f"{text}, on plain directories")
        command.set_defaults(stage=stage)
        for role in (*needed, *optional):
            command.add_argument(
                f"--{role}", required=role in needed, type=Path, help=f"the {role}'s directory"
            )
        command.add_argument("--out", required=True, type=Path, help="a new directory for the result")
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE",
            help=f"a key of the recipe's {stage} section; repeatable",
        )  # fmt: skip


def _add_registry_commands(add: Callable[..., argparse.ArgumentParser], verbs: Any) -> None:
    def group(name: str, text: str) -> Any:
        command = verbs.add_parser(name, help=text, description=text)
        return command.add_subparsers(dest="action", required=True, metavar="ACTION")

    artifacts = group("artifacts", "what the registry holds")
    listing = add("ls", "flows.commands.run:artifacts_ls", "list artifacts, newest first", artifacts)
    listing.add_argument(
        "--kind", choices=["base", "dataset", "adapter", "merged", "quantized", "evaluation"]
    )
    listing.add_argument("--limit", type=int, default=50, help="rows (default 50)")
    for name, text in (
        ("show", "one artifact: base reference, quantization, files, metrics"),
        ("lineage", "what an artifact was made from"),
    ):
        command = add(name, f"flows.commands.run:artifacts_{name}", text, artifacts)
        command.add_argument("ref", help=REFERENCE)
    _add_export_commands(add, artifacts)
    _add_import_commands(add, artifacts)
    _add_gc_command(add, artifacts)

    endpoints = group("endpoints", "running engines")
    add("ls", "flows.commands.run:endpoints_ls", "list endpoints", endpoints)
    add("stop", "flows.commands.run:endpoints_stop", "stop an endpoint", endpoints).add_argument("id")

    add_gate_commands(add, verbs)
    add_tenant_commands(add, verbs)
    back = add("rollback", "flows.commands.run:rollback", "move a channel back to what it pointed to before")
    back.add_argument("channel")
    back.add_argument("--reason", required=True, help="kept in the channel's history")

    api = add("api", "flows.commands.api:api", "serve the registry over HTTP, read-only")
    api.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    api.add_argument("--port", type=int, default=8700, help="0: a free one (default 8700)")
    _add_serving_commands(add)


def _add_serving_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    text = "serve channels to tenants: an OpenAI-compatible gateway and its engines"
    serve = add("serve", "flows.commands.serve:serve", text)
    serve.add_argument("config", type=Path, help="a YAML file, such as deploy/serve.yaml")
    serve.add_argument(
        "--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="override a key; repeatable"
    )
    serve.add_argument("--check", action="store_true", help="validate it, estimate memory, start nothing")
    serve.add_argument("--ignore-memory", action="store_true", help="start even where memory seems short")
    chat = add("chat", "flows.commands.chat:chat", "talk to what a channel points to")
    chat.add_argument("channel")
    chat.add_argument("--url", help="a gateway's address; its key is in TUNELINE_KEY. Default: own endpoint")
    chat.add_argument("--message", help="ask this once; default: read questions from standard input")
    chat.add_argument("--system", help="a system message")
    chat.add_argument("--max-tokens", type=int, help="of one answer (default: what the server gives)")
    chat.add_argument(
        "--temperature", type=float, help="0: always the likeliest word (default: the server's)"
    )


def _add_gc_command(add: Callable[..., argparse.ArgumentParser], artifacts: Any) -> None:
    text = "free the files of artifacts that nothing needs; their records stay. Without --delete, only say so"
    gc = add("gc", "flows.commands.gc:artifacts_gc", text, artifacts)
    gc.add_argument("--delete", action="store_true", help="do it")
    gc.add_argument("--why", metavar="REF", help=f"say why this artifact keeps its files: {REFERENCE}")
    gc.add_argument(
        "--keep-days", type=float, default=14.0, help="keep what was made in so many days (default 14)"
    )
    gc.add_argument(
        "--history", type=int, default=10, help="keep what each channel's last events had (default 10)"
    )
    gc.add_argument("--cache", action="store_true", help="also empty this machine's cache of an object store")


def _add_import_commands(add: Callable[..., argparse.ArgumentParser], artifacts: Any) -> None:
    """Bring in what was made elsewhere, and ask what goes together."""
    adopt = "adopt a PEFT adapter, a merged model, a GPTQ directory or a GGUF file"
    bring = add("import", "flows.commands.imports:artifacts_import", adopt, artifacts)
    bring.add_argument("path", type=Path, help="a directory, or a .gguf file")
    kinds = ["base", "adapter", "merged", "quantized"]
    bring.add_argument("--kind", choices=kinds, help="default: what the files are")
    whose = f"what it was made for: {REFERENCE}; or hub:ORG/NAME@COMMIT, path:DIRECTORY"
    bring.add_argument("--base", metavar="REF", help=whose)
    bring.add_argument("--name", help="a name for it, such as support; it gets the next version")

    explain = "explain, from metadata alone, whether two artifacts and an engine go together"
    compat = add("compat", "flows.commands.imports:artifacts_compat", explain, artifacts)
    compat.add_argument("a", help=REFERENCE)
    compat.add_argument("b", nargs="?", help="what is to be put on A, or was made from it")
    compat.add_argument("--engine", choices=["vllm", "llama.cpp"], help="check this engine's limits too")
    compat.add_argument("--context-length", type=int, metavar="N", help="tokens that will be asked for")
    compat.add_argument("--max-rank", type=int, metavar="N", help="the engine's largest adapter rank")
    compat.add_argument("--strict", action="store_true", help="exit code 3 also for what is not known")


def _add_export_commands(add: Callable[..., argparse.ArgumentParser], artifacts: Any) -> None:
    """Hand an artifact on, and check what was handed on."""
    signed = "write an artifact to a signed directory"
    export = add("export", "flows.commands.export:export", signed, artifacts)
    export.add_argument("ref", help=REFERENCE)
    export.add_argument(
        "out", type=Path, help="a new directory, with model card, SBOM, lineage and signature"
    )
    export.add_argument(
        "--key", type=Path, metavar="PEM",
        help="EC P-256 private key to sign with (default: TUNELINE_SIGNING_KEY, else the registry's own)",
    )  # fmt: skip
    reread = "read every byte again and compare it with its digest"
    verify = add("verify", "flows.commands.export:verify", reread, artifacts)
    verify.add_argument("ref", help=f"{REFERENCE}; or an exported directory, which needs no registry")
    whose = "of whoever exported the directory: checks the signature"
    verify.add_argument("--public-key", type=Path, metavar="PEM", help=whose)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = parser().parse_args(implied_action(sys.argv[1:] if argv is None else argv))
    module, _, name = arguments.call.partition(":")
    from importlib import import_module

    try:
        document, text, code = getattr(import_module(module), name)(arguments)
        if not arguments.json:
            text()
        elif document is not None:  # a command that runs on has said its document already
            print(json.dumps(document, indent=2, default=str))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("tuneline: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _fail(error, arguments)
    return int(code)


def _fail(error: Exception, arguments: argparse.Namespace) -> int:
    from flows.execute import EXPECTED

    expected = isinstance(error, EXPECTED)
    message = str(error) if expected else f"{type(error).__name__}: {error}"
    if arguments.debug:
        traceback.print_exception(error)
    print(f"tuneline: {as_typed(message)}", file=sys.stderr)
    if not expected and not arguments.debug:
        print("tuneline: this is a defect; run again with --debug and report it", file=sys.stderr)
    code = int(getattr(error, "exit_code", 4))
    if arguments.json:
        print(json.dumps({"error": message, "exit_code": code}))
    return code


if __name__ == "__main__":
    sys.exit(main())
