"""The arguments of `tuneline upgrade-base`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from flows.commands.arguments.schedule import add_limits

Add = Callable[..., argparse.ArgumentParser]


def add_upgrade_command(add: Add) -> None:
    """`upgrade-base [CHANNEL …] --to BASE --quant FORM [--run]`, `--resume|--undo|--show ID`."""
    text = "move channels to another base, or another quantization of theirs: plan, run, undo"
    more = "; without arguments, list upgrades; without --run, plan and begin nothing"
    upgrade = add("upgrade-base", "pipeline.upgrade:upgrade", text)
    upgrade.description = text + more
    upgrade.add_argument(
        "channels", nargs="*", metavar="CHANNEL", help="TEAM/NAME, or a pattern: 'support/*'"
    )
    text = "the channels of the tenants with such names, for example 'eu-*'"
    upgrade.add_argument("--tenants", metavar="PATTERN", help=text)
    text = "the new base, as a recipe's base.source has it: hub:ORG/NAME@REVISION, path:DIRECTORY, …"
    upgrade.add_argument("--to", metavar="BASE", help=text)
    text = "what the channels get: a GGUF type, 16bit or gptq; where adapters share a base, that base's"
    upgrade.add_argument("--quant", metavar="FORM", help=text)
    upgrade.add_argument("--run", action="store_true", help="do what is planned; without it, only plan")
    text = "also move channels whose new base, or model of their own, no running engine holds yet"
    upgrade.add_argument("--unserved", action="store_true", help=text)
    upgrade.add_argument("--zone", default="UTC", help="time zone of --window (default UTC)")
    add_limits(upgrade)
    ids = upgrade.add_mutually_exclusive_group()
    ids.add_argument("--resume", metavar="ID", help="go on with one that was stopped or killed")
    ids.add_argument(
        "--undo", metavar="ID", help="every channel that it moved goes back, if it moved no more"
    )
    ids.add_argument("--show", metavar="ID", help="what became of one")
    upgrade.add_argument("--who", help="who answers for it (default: your login name); kept in the logs")
