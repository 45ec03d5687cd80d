"""The arguments of `tuneline backup`, `restore` and `registry move`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACE = "a directory, or a URL such as s3://BUCKET/PREFIX"


def add_backup_commands(add: Callable[..., argparse.ArgumentParser], verbs: Any) -> None:
    """`backup [make]|ls|verify`, `restore` and `registry move`."""
    text = "copy the registry to another place, while it is in use"
    backup = verbs.add_parser(
        "backup", help=text, description=f"{text}. `backup DEST` means `backup make DEST`."
    )
    actions = backup.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = add("make", "registry.backup:make", f"{text}; files that are there stay", actions)
    make.add_argument("place", metavar="DEST", help=PLACE)
    with_key = "also the private signing key: whoever reads the backup can then sign as you"
    make.add_argument("--with-key", action="store_true", help=with_key)
    listing = add("ls", "registry.backup:ls", "list a place's backups, oldest first", actions)
    listing.add_argument("place", metavar="DEST", help=PLACE)
    verify = add("verify", "registry.backup:verify", "read every byte of backups again", actions)
    verify.add_argument("place", metavar="DEST", help=PLACE)
    verify.add_argument("--snapshot", metavar="NAME", help="only this one (default: all)")

    text = "bring a backup into an empty registry, and check all of it"
    restore = add("restore", "registry.backup:restore", text)
    restore.add_argument("place", metavar="SRC", help=PLACE)
    restore.add_argument("--snapshot", metavar="NAME", help="a name or its beginning (default: the newest)")
    restore.add_argument("--to", type=Path, metavar="HOME", help="the new home (default: TUNELINE_HOME)")

    registry = verbs.add_parser("registry", help="take the registry to servers", description="the registry")
    actions = registry.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "take a SQLite registry to the servers that TUNELINE_DATABASE_URL and TUNELINE_STORE_URL name"
    add("move", "registry.backup:move", f"{text}; the old one is closed", actions)
