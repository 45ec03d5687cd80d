"""What each command does. Each returns (document for --json, how to print it for people, exit code)."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.commands.home import made_home, open_registry
from flows.errors import Usage
from flows.formatting import short, size
from registry.errors import Collected, NotFound

LOG_WIDTH = 110
"""Columns of a summary that goes to a file; rich would take 80."""

Reply = tuple[Any, Callable[[], None], int]


def run(arguments: argparse.Namespace) -> Reply:
    """Run a recipe and show the summary, also of a run that failed."""
    from flows.execute import as_json, execute
    from flows.recipe import load
    from flows.report.report import render_terminal

    result = execute(load(arguments.recipe, arguments.set), made_home())
    if arguments.debug and result.error is not None:
        raise result.error
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    document = {**as_json(result.report), "html": str(result.html), "exit_code": result.exit_code}
    return document, lambda: render_terminal(result.report, console, result.html), result.exit_code


def artifacts_ls(arguments: argparse.Namespace) -> Reply:
    """Artifacts, newest first."""
    if not 1 <= arguments.limit <= 10_000:
        raise Usage(f"--limit {arguments.limit}: expected a number of rows from 1 to 10000")
    registry = open_registry()
    found = registry.ls(kind=arguments.kind, limit=arguments.limit + 1)
    more, found = len(found) > arguments.limit, found[: arguments.limit]
    gone = registry.collected(a.id for a in found)
    document = [
        {
            "id": a.id, "name": a.called, "kind": a.manifest.kind, "created": a.created,
            "stage": a.manifest.stage, "bytes": a.size,
            "content": "collected" if a.id in gone else "present",
        }
        for a in found
    ]  # fmt: skip

    def show() -> None:
        titles = ["id", "name", "kind", "made by", "what", "created", "size"]
        rows = [
            [short(a.id), a.called or "", a.manifest.kind, a.manifest.stage, _what(a.manifest),
             f"{a.created:%Y-%m-%d %H:%M}", size(a.size) + (", collected" if a.id in gone else "")]
            for a in found
        ]  # fmt: skip
        if not found:
            kind = f" of kind {arguments.kind}" if arguments.kind else ""
            print(f"no artifacts{kind} in the registry of {registry.home}")
            return
        if not any(a.called for a in found):
            titles, rows = [titles[0], *titles[2:]], [[row[0], *row[2:]] for row in rows]
        print_table("", titles, rows)
        if more:
            print(f"these are the newest {len(found)}; --limit shows more")

    return document, show, 0


def _what(manifest: Any) -> str:
    if manifest.kind == "evaluation":
        return str(manifest.metrics.get("measured_on", ""))
    if manifest.quant is not None and manifest.quant.quantized:
        asked = manifest.quant.requested
        return " ".join(
            [
                manifest.quant.method,
                *(f"{k}={v}" for k, v in asked.items() if k in {"bits", "type", "group_size"}),
            ]
        )
    return manifest.base.source if manifest.base else ""


def artifacts_show(arguments: argparse.Namespace) -> Reply:
    """One artifact, whole."""
    registry = open_registry()
    artifact = registry.get(arguments.ref)
    try:
        path, content = str(registry.view(artifact.id)), "present"
    except Collected as gone:
        path, content = None, f"collected: {gone}"
    document = {
        "id": artifact.id,
        "created": artifact.created,
        "path": path,
        "content": content,
        **artifact.manifest.model_dump(mode="json"),
    }
    return document, lambda: Console().print_json(data=document, default=str), 0


def artifacts_lineage(arguments: argparse.Namespace) -> Reply:
    """The artifacts that one was made from, as a tree."""
    from rich.tree import Tree

    registry = open_registry()
    artifact = registry.get(arguments.ref)
    edges = registry.lineage(artifact.id)

    def grow(node: Tree, id_: str) -> None:
        for edge in edges:
            if edge.child == id_:
                parent = registry.get(edge.parent)
                text = f"{edge.relation} ← {parent.manifest.kind} {short(parent.id)} {_what(parent.manifest)}"
                grow(node.add(text), edge.parent)

    def show() -> None:
        tree = Tree(f"{artifact.manifest.kind} {short(artifact.id)} {_what(artifact.manifest)}")
        grow(tree, artifact.id)
        Console(highlight=False, markup=False).print(tree)

    document = [{"child": e.child, "relation": e.relation, "parent": e.parent} for e in edges]
    return document, show, 0


def artifacts_verify(arguments: argparse.Namespace) -> Reply:
    """Re-hash an artifact's bytes."""
    registry = open_registry()
    artifact = registry.get(arguments.ref)
    problems = [str(problem) for problem in registry.verify(artifact.id)]

    def show() -> None:
        for line in problems:
            print(line)
        print(f"{short(artifact.id)}: {'CORRUPT' if problems else 'every byte as recorded'}")

    return {"id": artifact.id, "problems": problems}, show, 4 if problems else 0


def rollback(arguments: argparse.Namespace) -> Reply:
    """Move a channel back."""
    registry = open_registry()
    if registry.channels.get(arguments.channel) is None:
        raise NotFound(f"no channel {arguments.channel!r}; `tuneline channels` lists them")
    moved = registry.channels.rollback(arguments.channel, reason=arguments.reason, who=getpass.getuser())
    text = f"{moved.name} → {short(moved.artifact_id)} (generation {moved.generation})"
    return moved.model_dump(mode="json"), lambda: print(text), 0


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table that does not cut ids and paths."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in {"id", "url"})
    for row in rows:
        table.add_row(*map(str, row))
    width = None if sys.stdout.isatty() else LOG_WIDTH
    Console(highlight=False, markup=False, width=width).print(table)
