"""`tuneline recipes`: what each does."""

from __future__ import annotations

import argparse
import difflib
import json
from pathlib import Path

from flows.commands.reply import Reply, print_table
from flows.errors import Usage
from flows.recipe import read_yaml, shipped


def ls(arguments: argparse.Namespace) -> Reply:
    """All shipped recipes."""
    document = [
        {"name": name, "description": tree.get("description", ""), "base": tree["base"]["source"]}
        for name, tree in ((name, read_yaml(path)) for name, path in shipped().items())
    ]

    def show() -> None:
        columns = ("name", "base", "description")
        print_table("", columns, [[recipe[column] for column in columns] for recipe in document])

    return Reply(document, show)


def show(arguments: argparse.Namespace) -> Reply:
    """One recipe, as it stands in its file; with --json its keys and values."""
    path = _path(arguments.recipe)
    return Reply(read_yaml(path), lambda: print(path.read_text("utf-8"), end=""))


def copy(arguments: argparse.Namespace) -> Reply:
    """A recipe of the user's own, to change. Raises `Usage` where the file exists."""
    text = _path(arguments.recipe).read_text("utf-8")
    out = arguments.file or Path(f"{arguments.recipe}.yaml")
    if out.is_dir():
        out = out / f"{arguments.recipe}.yaml"
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Usage(f"{out} exists already, and nothing is overwritten; name another file") from None
    message = f"{out}: change it, then `tuneline check {out}` and `tuneline run {out}`"
    return Reply({"name": arguments.recipe, "file": str(out)}, lambda: print(message))


def schema(arguments: argparse.Namespace) -> Reply:
    """The JSON Schema of a recipe, for editors."""
    from flows.reference import json_schema

    text = json_schema()
    return Reply(json.loads(text), lambda: print(text, end=""))


def _path(name: str) -> Path:
    recipes = shipped()
    if name not in recipes:
        near = difflib.get_close_matches(name, recipes, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise Usage(f"no shipped recipe {name!r}; there are: {', '.join(recipes)}{hint}")
    return recipes[name]
