"""OpenSSF model signatures over exported directories: an EC P-256 key in a file, no network.

The format is that of the package `model-signing` (a Sigstore bundle around an in-toto statement with the
sha256 of each file), so that its own command verifies an export too.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from flows.exchange.dossier import SIGNATURE
from registry.channels import signing

_MISMATCH = re.compile(
    r"""(["'])Hash mismatch for \\?'(.+?)\\?': Expected .+?\)\\?', Actual .+?\)\\?'\1(?=[],])""", re.DOTALL
)
"""What the library says of an altered file: its name, then digests in raw bytes, quoted by what they hold."""


def sign_directory(directory: Path, private_key: Path) -> str:
    """Write `model.sig` into the directory, over every other file in it; returns the signer's fingerprint.

    Raises InvalidArtifact for a key that is no unencrypted EC P-256 private key.
    """
    signer = signing.fingerprint(signing.public_key(private_key))
    from model_signing.signing import Config

    target = directory / SIGNATURE
    Config().use_elliptic_key_signer(private_key=private_key).set_hashing_config(_hashing(directory)).sign(
        directory, target
    )
    return signer


def signature_problem(directory: Path, public_key: Path) -> str | None:
    """Why the directory's signature is not that of the key's owner over exactly these files; None if it is.

    Raises InvalidArtifact for a public key that is none.
    """
    signing.fingerprint(public_key.read_bytes())
    target = directory / SIGNATURE
    if target.is_symlink() or not target.is_file():
        return "missing: nothing shows who made this directory"
    from model_signing.verifying import Config

    try:
        if (oddity := _oddity(json.loads(target.read_text("utf-8")))) is not None:
            return f"altered: {oddity}"
        checker = Config().use_elliptic_key_verifier(public_key=public_key)
        checker.set_hashing_config(_hashing(directory)).verify(directory, target)
    except Exception as error:  # The library lets whatever goes wrong in a stranger's bytes through.
        message = _MISMATCH.sub(lambda match: f'"Hash mismatch for {match[2]!r}"', str(error))
        return f"not valid: {' '.join(message.split()) or type(error).__name__}"
    return None


def signed_names(directory: Path) -> set[str]:
    """Names of the files that the signature speaks of; call it on a signature that is valid."""
    bundle = json.loads((directory / SIGNATURE).read_text("utf-8"))
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return {resource["name"] for resource in statement["predicate"]["resources"]}


def _hashing(directory: Path) -> Any:
    # What belongs to git is left out, as the library's command does by default: it would not accept the
    # signature otherwise. Such files are found by their absence from the manifest.
    from model_signing.hashing import Config

    return Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=True)


def _oddity(bundle: Any) -> str | None:
    """What in a bundle is covered by no signature and yet not as it is written; the library looks past it."""
    envelope = bundle["dsseEnvelope"]
    (signature,) = envelope["signatures"]
    hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    for name, text in (("payload", envelope["payload"]), ("sig", signature["sig"])):
        if base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
            return f"its {name} is not plain base64"
    written = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": envelope["payload"],
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": signature["sig"], "keyid": ""}],
        },
    }
    if bundle != written:
        return "it holds something that no signature covers"
    return None
