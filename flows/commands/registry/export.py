"""The commands that hand an artifact on, and those that check what was handed on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.home import home, open_registry
from flows.commands.reply import Reply
from flows.errors import Usage
from flows.formatting import command_name, short
from registry.channels import signing
from registry.errors import NotFound

if TYPE_CHECKING:
    from flows.exchange.export_check import Verified


def export(arguments: argparse.Namespace) -> Reply:
    """Write an artifact and all that is known about it to a new directory, signed."""
    from flows.exchange.artifact_export import export

    settings = home()
    key = signing.key_path(settings.root, arguments.key or settings.signing_key)
    with open_registry() as registry:
        done = export(registry, arguments.ref, arguments.out, key)
    document = {"id": done.id, "out": str(done.out), "files": list(done.files), "signer": done.signer}

    def show() -> None:
        print(f"{short(done.id)}: {len(done.files)} files in {done.out}, signed by key {short(done.signer)}")
        public = signing.public_path(key)
        if not public.is_file():
            print(f"The signer's public key: openssl pkey -in {key} -pubout -out {public}")
        check = f"{command_name()} artifacts verify {done.out} --public-key {public}"
        print(f"Check it anywhere: {check}")

    return Reply(document, show)


def verify(arguments: argparse.Namespace) -> Reply:
    """Check an exported directory, or an artifact of the registry."""
    directory = Path(arguments.ref)
    if not directory.is_dir():
        if arguments.public_key is not None:
            raise Usage(
                f"--public-key is for exported directories, and {directory} is not one; without it, "
                "`tuneline artifacts verify` reads an artifact of this registry"
            )
        try:
            return _verify_registered(arguments)
        except NotFound as error:
            raise NotFound(f"{error}; nor is it a directory that was exported") from error
    from flows.exchange.dossier import MANIFEST, SIGNATURE
    from flows.exchange.export_check import verify_directory

    if not any((directory / name).exists() for name in (MANIFEST, SIGNATURE)):
        raise Usage(f"{directory} is not an exported directory: it holds neither {MANIFEST} nor {SIGNATURE}")
    verified = verify_directory(directory, arguments.public_key)
    document: dict[str, Any] = {
        "directory": str(directory),
        "id": verified.id,
        "signed_by": verified.signer,
        "problems": list(verified.problems),
        "not_proved": list(verified.not_proved),
    }
    return Reply(document, lambda: _print_verified(directory, verified), 4 if verified.problems else 0)


def _print_verified(directory: Path, verified: Verified) -> None:
    for line in verified.problems:
        print(line)
    name = short(verified.id) if verified.id else str(directory)
    if verified.problems:
        print(f"{name}: NOT as exported")
    elif verified.signer is not None:
        print(f"{name}: every file as exported and signed by key {short(verified.signer)}")
    else:
        print(f"{name}: the files agree with the manifest and with each other")
    for line in verified.not_proved:
        print(f"Not proved: {line}.")


def _verify_registered(arguments: argparse.Namespace) -> Reply:
    """Re-hash an artifact's bytes."""
    registry = open_registry()
    artifact = registry.get(arguments.ref)
    problems = [str(problem) for problem in registry.verify(artifact.id)]

    def show() -> None:
        for line in problems:
            print(line)
        print(f"{short(artifact.id)}: {'CORRUPT' if problems else 'every byte as recorded'}")

    return Reply({"id": artifact.id, "problems": problems}, show, 4 if problems else 0)
