"""`tuneline artifacts ls`, `show`, `lineage` and `gc`: what each does."""

from __future__ import annotations

import argparse
import math

from rich.console import Console

from flows.commands.figures import Figures, figures
from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.errors import Usage
from flows.formatting import as_typed, plain, short, size
from registry import Artifact, Registry
from registry.artifacts import Manifest
from registry.errors import Collected
from registry.gc.reachability import RetentionPolicy
from registry.gc.report import GcReport


def ls(arguments: argparse.Namespace) -> Reply:
    """Artifacts, newest first."""
    if not 1 <= arguments.limit <= 10_000:
        raise Usage(f"--limit {arguments.limit}: expected a number of rows from 1 to 10000")
    registry = open_registry()
    artifacts = registry.ls(kind=arguments.kind, limit=arguments.limit + 1)
    more, artifacts = len(artifacts) > arguments.limit, artifacts[: arguments.limit]
    gone = registry.collected(artifact.id for artifact in artifacts)
    document = [
        {
            "id": artifact.id,
            "name": artifact.called,
            "kind": artifact.manifest.kind,
            "created": artifact.created,
            "stage": artifact.manifest.stage,
            "bytes": artifact.size,
            "content": "collected" if artifact.id in gone else "present",
        }
        for artifact in artifacts
    ]

    def text() -> None:
        titles = ["id", "name", "kind", "made by", "what", "created", "size"]
        rows = [_cells(artifact, artifact.id in gone) for artifact in artifacts]
        if not artifacts:
            kind = f" of kind {arguments.kind}" if arguments.kind else ""
            print(f"no artifacts{kind} in the registry of {registry.home}")
            return
        if not any(artifact.called for artifact in artifacts):
            titles, rows = [titles[0], *titles[2:]], [[row[0], *row[2:]] for row in rows]
        print_table("", titles, rows)
        if more:
            print(f"these are the newest {len(artifacts)}; --limit shows more")

    return Reply(document, text)


def _cells(artifact: Artifact, collected: bool) -> list[str]:
    manifest, bytes_ = artifact.manifest, size(artifact.size) + (", collected" if collected else "")
    made = [manifest.kind, manifest.stage, _what(manifest), f"{artifact.created:%Y-%m-%d %H:%M}"]
    return [short(artifact.id), artifact.called or "", *made, bytes_]


def _what(manifest: Manifest) -> str:
    if manifest.kind == "evaluation":
        return str(manifest.metrics.get("measured_on", ""))
    if manifest.quant is not None and manifest.quant.quantized:
        asked = manifest.quant.requested
        shown = (f"{key}={value}" for key, value in asked.items() if key in {"bits", "type", "group_size"})
        return " ".join([manifest.quant.method, *shown])
    return manifest.base.source if manifest.base else ""


def show(arguments: argparse.Namespace) -> Reply:
    """One artifact: its main facts; with --json, whole."""
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

    def text() -> None:
        print(plain(f"{' '.join(filter(None, (artifact.id, artifact.called)))}: {artifact.manifest.kind}"))
        for name, words in _facts(registry, artifact, path or content):
            print(plain(f"  {name:<13} {words}"))
        print(as_typed(f"  {'all of it':<13} `tuneline artifacts show {short(artifact.id)} --json`"))

    return Reply(document, text)


def _facts(registry: Registry, artifact: Artifact, place: str) -> Figures:
    manifest = artifact.manifest
    yield "made by", f"{manifest.stage}, {artifact.created:%Y-%m-%d %H:%M} UTC"
    if manifest.base is not None:
        base = manifest.base
        yield "base", f"{base.source}, revision {short(base.revision)}, {base.architecture}"
    if manifest.quant is not None and manifest.quant.method != "none":
        asked = (f"{key} {value}" for key, value in manifest.quant.requested.items() if key != "method")
        yield "quantized", f"{manifest.quant.method}: {', '.join(asked)}"
    for parent in manifest.parents:
        made_from = registry.get(parent.id)
        of = " ".join(filter(None, (made_from.manifest.kind, short(parent.id), _what(made_from.manifest))))
        yield "from", f"{of} ({parent.relation.replace('_', ' ')})"
    yield from figures(manifest.model_dump(mode="json"))
    count = len(manifest.files)
    yield "files", f"{count:,} file{'s' if count > 1 else ''}, {size(artifact.size)}: {place}"


def lineage(arguments: argparse.Namespace) -> Reply:
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

    def text() -> None:
        tree = Tree(f"{artifact.manifest.kind} {short(artifact.id)} {_what(artifact.manifest)}")
        grow(tree, artifact.id)
        Console(highlight=False, markup=False).print(tree)

    document = [{"child": e.child, "relation": e.relation, "parent": e.parent} for e in edges]
    return Reply(document, text)


def gc(arguments: argparse.Namespace) -> Reply:
    """Say what would be freed, free it (--delete), or say why one artifact stays (--why)."""
    if not (math.isfinite(arguments.keep_days) and 0 <= arguments.keep_days <= 36500):
        raise Usage(f"--keep-days {arguments.keep_days:g}: expected a number from 0 to 36500")
    if arguments.history < 1:
        raise Usage(f"--history {arguments.history}: expected at least 1, or no rollback could work")
    retention = RetentionPolicy(days=arguments.keep_days, history=arguments.history)
    if arguments.why is not None:
        if arguments.delete:
            raise Usage("--why only explains; leave out --delete")
        return _why(arguments.why, retention)
    with open_registry() as registry:
        freed = registry.collect(retention, delete=arguments.delete, cache=arguments.cache)
    document = {**freed.model_dump(mode="json"), "bytes": freed.bytes}
    return Reply(document, lambda: _print_freed(freed))


def _why(ref: str, retention: RetentionPolicy) -> Reply:
    with open_registry() as registry:
        artifact = registry.get(ref)
        reasons = registry.why_kept(artifact.id, retention)
    name = f"{artifact.manifest.kind} {short(artifact.id)}"
    lines = [f"{name} keeps its files:" if reasons else f"{name}: nothing needs its files"]
    lines += [f"  {reason}" for reason in reasons]
    document = {"id": artifact.id, "kept": bool(reasons), "reasons": reasons}
    return Reply(document, lambda: print("\n".join(lines)))


def _print_freed(freed: GcReport) -> None:
    if freed.artifacts:
        rows = [
            (
                short(artifact.id),
                artifact.kind,
                artifact.stage,
                f"{artifact.created:%Y-%m-%d %H:%M}",
                size(artifact.bytes),
            )
            for artifact in freed.artifacts
        ]
        print_table("", ("id", "kind", "made by", "created", "size"), rows)
    parts = [
        (len(freed.artifacts), "artifacts that nothing needs", None),
        (freed.blobs.count, "files that only such artifacts have", freed.blobs.bytes),
        (freed.leftovers.count, "files left by crashed publications", freed.leftovers.bytes),
        (freed.drafts.count, "drafts that nobody works on", freed.drafts.bytes),
        (freed.views, "views of such artifacts", None),
        (freed.cached.count, "files in the cache of the object store", freed.cached.bytes),
    ]
    for count, what, held in parts:
        if count:
            print(f"{what}: {count}" + ("" if held is None else f", {size(held)}"))
    done = "freed" if freed.deleted else "would free"
    print(f"artifacts that keep their files: {freed.kept}")
    print(f"{done} {size(freed.bytes)}")
    if not freed.deleted:
        print("nothing was deleted; --delete does it, --why ARTIFACT says why one stays")
