"""The command `tuneline`. `--help` and `check` load no heavy library."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flows.errors import not_begun, of_a_path
from flows.formatting import as_typed, plain
from flows.installation import is_light, needs_all
from flows.run.readers import is_unread, read_or_not, remark, silence

if TYPE_CHECKING:
    from flows.commands.reply import Reply

EXIT_CODES = """exit codes:
  0  done, or the gate passed
  1  the gate failed
  2  the gate has not enough evidence
  3  invalid input; the message says what to change
  4  internal error; --debug shows where
  130  interrupted, by Ctrl-C or SIGTERM; the same command again goes on from there"""

LISTED = ("artifacts", "endpoints", "feed", "recipes", "runs", "schedule", "tenants", "users", "webhooks")
"""Commands that list where no action is named."""


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Unknown arguments are refused by the command they were given to, which shows its own usage."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Wrong arguments are invalid input: argparse's own 2 would say that a gate lacks evidence."""
        self.print_usage(sys.stderr)
        self.exit(3, f"{self.prog}: {plain(message)}\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"tuneline {version('tuneline')}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = _Parser(
        prog="tuneline",
        description="From fine-tune to serve with QLoRA, with proof at every step.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    # Suppressed, or the default of an action would undo what stands before it: `channels --json show X`.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="print one JSON document to stdout")
    common.add_argument("--debug", action="store_true", help="show stack traces")
    top.set_defaults(json=False, debug=False)
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, call: str, text: str, into: Any = verbs) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = into.add_parser(
            name, help=text, description=text, parents=[common]
        )
        command.set_defaults(call=call)
        return command

    def group(name: str, text: str) -> Any:
        command = verbs.add_parser(name, help=text, description=f"{text}; without an action, list")
        return command.add_subparsers(dest="action", required=True, metavar="ACTION")

    _add_recipe_commands(add)
    _add_stage_commands(add)
    _add_other_commands(add, group, verbs)
    return top


def _add_other_commands(
    add: Callable[..., argparse.ArgumentParser], group: Callable[..., Any], verbs: Any
) -> None:
    """Imported here, so that Ctrl-C shows no trace meanwhile."""
    from flows.commands.arguments.access import add_access_commands
    from flows.commands.arguments.backup import add_backup_commands
    from flows.commands.arguments.data import add_data_commands
    from flows.commands.arguments.feed import add_feed_commands
    from flows.commands.arguments.gate import add_gate_commands
    from flows.commands.arguments.overview import add_overview_commands
    from flows.commands.arguments.planning import add_plan_commands
    from flows.commands.arguments.registry import add_registry_commands
    from flows.commands.arguments.schedule import add_schedule_commands
    from flows.commands.arguments.sweep import add_sweep_command
    from flows.commands.arguments.tenants import add_tenant_commands
    from flows.commands.arguments.upgrade import add_upgrade_command

    add_registry_commands(add, group)
    add_gate_commands(add, verbs)
    add_tenant_commands(add, verbs)
    add_access_commands(add, group)
    add_data_commands(add, group)
    add_feed_commands(add, group)
    add_backup_commands(add, verbs)
    add_schedule_commands(add, group)
    add_sweep_command(add)
    add_upgrade_command(add)
    _add_serving_commands(add)
    add_plan_commands(add, group)
    add_overview_commands(add, group)


def _add_recipe_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    for name, text in (
        ("run", "run a recipe from data to endpoint; results that exist are reused"),
        ("check", "validate a recipe and estimate memory, disk and time, without loading weights"),
    ):
        command = add(name, f"pipeline.run:{name}", text)
        command.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
        _add_set(command)


def _add_set(
    command: argparse.ArgumentParser, metavar: str = "KEY.PATH=VALUE", text: str = "override a key"
) -> None:
    command.add_argument("--set", action="append", default=[], metavar=metavar, help=f"{text}; repeatable")


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
        command = add(stage, "pipeline.stage:stage", f"{text}, on plain directories")
        command.set_defaults(stage=stage)
        for role in (*needed, *optional):
            command.add_argument(
                f"--{role}", required=role in needed, type=Path, help=f"the {role}'s directory"
            )
        command.add_argument("--out", required=True, type=Path, help="a new directory for the result")
        _add_set(command, "KEY=VALUE", f"a key of the recipe's {stage} section")


def _add_serving_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    text = "serve channels to tenants: an OpenAI-compatible gateway and its engines"
    serve = add("serve", "serving.serve:serve", text)
    serve.add_argument("config", type=Path, help="a YAML file, such as deploy/serve.yaml")
    _add_set(serve)
    serve.add_argument("--check", action="store_true", help="validate it, estimate memory, start nothing")
    serve.add_argument("--ignore-memory", action="store_true", help="start even where memory seems short")
    chat = add("chat", "serving.chat:chat", "talk to what a channel points to")
    chat.add_argument("channel")
    chat.add_argument("--url", help="a gateway's address; its key is in TUNELINE_KEY. Default: own endpoint")
    chat.add_argument("--message", help="ask this once; default: read questions from standard input")
    chat.add_argument("--system", help="a system message")
    chat.add_argument("--max-tokens", type=int, help="of one answer (default: what the server gives)")
    chat.add_argument(
        "--temperature", type=float, help="0: always the likeliest word (default: the server's)"
    )


def spelled_out(argv: Sequence[str]) -> list[str]:
    """`artifacts …` means `artifacts ls …` and `gate POLICY …` means `gate run POLICY …`."""
    from flows.commands.arguments.gate import implied_action

    arguments = implied_action(argv)
    if arguments[:1] and arguments[0] in LISTED and (arguments[1:2] or ["-"])[0].startswith("-"):
        arguments[1:1] = [] if arguments[1:2] in (["-h"], ["--help"]) else ["ls"]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    try:
        with not_begun("the command"):
            arguments = _arguments(argv)
        return _end_of(arguments)
    except KeyboardInterrupt as interrupt:
        remark(f"tuneline: {str(interrupt) or 'interrupted'}")
        return 130


def _end_of(arguments: argparse.Namespace) -> int:
    """Run the command; its exit code. Raises KeyboardInterrupt, which may say what was not begun."""
    try:
        with not_begun("the run" if arguments.command == "run" else "the command"):
            from flows.settings import NO_TELEMETRY

            for variable, value in NO_TELEMETRY.items():
                os.environ.setdefault(variable, value)
            command = _command(arguments.call)
        reply = command(arguments)
        _print(reply, arguments.json)
    except BrokenPipeError as error:
        if not is_unread(sys.stdout):
            return _fail(error, arguments)
        silence(sys.stdout)
        return 130  # nobody reads what it does: an interruption
    except Exception as error:
        return _fail(error, arguments)
    return reply.exit_code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; those that ask for help, or that are wrong, end the process."""
    top = parser()
    if "_ARGCOMPLETE" in os.environ:
        from flows.commands.arguments.completion import complete

        complete(top)
    try:
        return top.parse_args(spelled_out(sys.argv[1:] if argv is None else argv))
    except (SystemExit, BrokenPipeError) as error:
        with read_or_not(sys.stdout):
            pass
        raise error if isinstance(error, SystemExit) else SystemExit(0) from None


def _command(call: str) -> Callable[[argparse.Namespace], Reply]:
    """The function of a command, named as MODULE:FUNCTION. Imports make no garbage, and a collector that
    looks for some takes a fifth of their time."""
    from importlib import import_module

    module, _, name = call.partition(":")
    gc.disable()
    try:
        command: Callable[[argparse.Namespace], Reply] = getattr(
            import_module(f"flows.commands.{module}"), name
        )
    finally:
        gc.enable()
    return command


def _print(reply: Reply, as_json: bool) -> None:
    """Print a command's result."""
    with read_or_not(sys.stdout):
        if not as_json:
            reply.show()
        elif reply.document is not None:
            print(json.dumps(reply.document, indent=2, default=str))


def _fail(error: Exception, arguments: argparse.Namespace) -> int:
    from flows.execute import EXPECTED

    if arguments.debug:
        with read_or_not(sys.stderr):
            traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError) and is_light():
        error = needs_all(f"this command needs {error.name}")
    error = of_a_path(error) or error
    expected = isinstance(error, EXPECTED)
    message = str(error) if expected else f"{type(error).__name__}: {error}"
    with read_or_not(sys.stderr):
        print(f"tuneline: {plain(as_typed(message))}", file=sys.stderr)
        if not expected and not arguments.debug:
            print("tuneline: this is a defect; run again with --debug and report it", file=sys.stderr)
    code = int(getattr(error, "exit_code", 4))
    if arguments.json:
        with read_or_not(sys.stdout):
            print(json.dumps({"error": message, "exit_code": code}))
    return code


if __name__ == "__main__":
    sys.exit(main())
