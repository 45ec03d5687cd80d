"""`tuneline completion`: what a shell needs in order to complete the command; and completing it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from flows.commands.reply import Reply

_ZSH = "(( ${+functions[compdef]} )) || { autoload -Uz compinit && compinit }"
"""A zsh that was not set up for completion has no `compdef`."""


def completion(arguments: argparse.Namespace) -> Reply:
    """The script for one shell; it asks `tuneline` itself, so it fits every later version."""
    import argcomplete

    script = str(argcomplete.shellcode(["tuneline"], shell=arguments.shell))
    if arguments.shell == "zsh":  # its first line has to stay the first
        first, _, rest = script.partition("\n")
        script = f"{first}\n{_ZSH}\n{rest}"
    return Reply({"shell": arguments.shell, "script": script}, lambda: print(script))


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell's question, which is in the environment, and end the process."""
    import argcomplete

    for action in _recipe_arguments(parser):
        action.completer = _recipes
    argcomplete.autocomplete(parser)


def _recipe_arguments(parser: argparse.ArgumentParser) -> Iterator[Any]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _recipe_arguments(command)
        elif action.dest == "recipe":
            yield action


def _recipes(prefix: str, **_: Any) -> list[str]:
    import argcomplete

    from flows.recipe import shipped

    return [*shipped(), *argcomplete.FilesCompleter(("yaml", "yml"))(prefix)]
