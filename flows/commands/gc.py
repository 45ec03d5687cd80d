"""`tuneline artifacts gc`: what nothing needs, why the rest stays, and freeing it."""

from __future__ import annotations

import argparse
import math

from flows.commands.run import Reply, open_registry, print_table
from flows.errors import Usage
from flows.formatting import short, size
from registry.gc.reachability import RetentionPolicy
from registry.gc.report import GcReport


def artifacts_gc(arguments: argparse.Namespace) -> Reply:
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
    return document, lambda: _show(freed), 0


def _why(ref: str, retention: RetentionPolicy) -> Reply:
    with open_registry() as registry:
        artifact = registry.get(ref)
        reasons = registry.why_kept(artifact.id, retention)
    name = f"{artifact.manifest.kind} {short(artifact.id)}"
    lines = [f"{name} keeps its files:" if reasons else f"{name}: nothing needs its files"]
    lines += [f"  {reason}" for reason in reasons]
    document = {"id": artifact.id, "kept": bool(reasons), "reasons": reasons}
    return document, lambda: print("\n".join(lines)), 0


def _show(freed: GcReport) -> None:
    if freed.artifacts:
        rows = [
            (short(one.id), one.kind, one.stage, f"{one.created:%Y-%m-%d %H:%M}", size(one.bytes))
            for one in freed.artifacts
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
