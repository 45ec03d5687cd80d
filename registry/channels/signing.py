"""Signatures of gate decisions and exports: ECDSA on P-256 with SHA-256 (FIPS 186-5), keys as PEM files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from registry.errors import InvalidArtifact
from registry.store.files import sync_directory, wrap_os_errors

_ALGORITHM = ec.ECDSA(hashes.SHA256())


def key_path(home: Path, configured: Path | None) -> Path:
    """The private key to sign with: `configured`, or `home/keys/signing.pem`, made when it is not there.

    The key that is made is readable by its owner only; its public half is written beside it, for others to
    verify with. Of several processes that make it at once, one wins and all use that one. Raises
    InvalidArtifact when the configured file is missing, StoreFull and StoreFailed when none can be written.
    """
    if configured is not None:
        if not configured.is_file():
            raise InvalidArtifact(
                f"signing key {configured}: no such file; make one with `openssl ecparam -name prime256v1 "
                f"-genkey -noout -out {configured}`, or unset TUNELINE_SIGNING_KEY to use the registry's own"
            )
        return configured
    path = Path(home) / "keys" / "signing.pem"
    if not (path.exists() and public_path(path).exists()):
        with wrap_os_errors(f"signing key {path}"):
            _make(path)
    return path


def public_path(private: Path) -> Path:
    """Where the public half of a private key's file stands: `signing.pub.pem` beside `signing.pem`."""
    return private.with_name(f"{private.stem}.pub.pem")


def public_key(private: Path) -> bytes:
    """The public half of the private key in `private`, as PEM. Raises InvalidArtifact."""
    return _public_pem(_private(private))


def fingerprint(public_pem: bytes) -> str:
    """sha256 (hex) of a public key's DER bytes, which names the signer. Raises InvalidArtifact."""
    key = _public(public_pem)
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def sign(private: Path, content: bytes) -> tuple[str, str]:
    """Sign `content`: (fingerprint of the signer's public key, signature in base64).

    Raises InvalidArtifact for a file that holds no unencrypted EC P-256 private key.
    """
    key = _private(private)
    signature = key.sign(content, _ALGORITHM)
    return fingerprint(_public_pem(key)), base64.b64encode(signature).decode()


def verify(public_pem: bytes, content: bytes, signature: str) -> bool:
    """Whether `signature` (base64) is that of `content` under the public key. Raises InvalidArtifact for a
    key that cannot be read; a signature that cannot be read is simply not valid."""
    key = _public(public_pem)
    try:
        key.verify(base64.b64decode(signature, validate=True), content, _ALGORITHM)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


class Keys:
    """Whom a registry believes: its own key, and the public keys in `home/keys/trusted/*.pem`.

    Where several machines share a database, either all have one key (TUNELINE_SIGNING_KEY), or each has the
    others' public halves among its trusted ones.
    """

    def __init__(self, home: Path, configured: Path | None = None) -> None:
        self.home = Path(home)
        self._configured = configured

    def sign(self, content: bytes) -> tuple[str, str]:
        """(fingerprint, signature) of `content`; makes the registry's key where there is none."""
        return sign(key_path(self.home, self._configured), content)

    def problem(self, signer: str | None, content: bytes, signature: str | None) -> str | None:
        """Why the signature is not valid, or None. Raises InvalidArtifact for a key that cannot be read."""
        if signer is None or signature is None:
            return "is not signed, since an older version made it; run the gate again"
        pem = self._trusted().get(signer)
        if pem is None:
            return (
                f"is signed with the key {signer[:12]}, which is not trusted here; if it should be, put its "
                f"public half into {self.home / 'keys' / 'trusted'}"
            )
        return None if verify(pem, content, signature) else "has a signature that does not match its content"

    def existing(self) -> Path | None:
        """The private key that the registry signs with, if it has one; makes none. Raises InvalidArtifact."""
        if self._configured is None and not (self.home / "keys" / "signing.pem").exists():
            return None
        return key_path(self.home, self._configured)

    def trusted_files(self) -> list[Path]:
        """The public keys that it believes beside its own."""
        return sorted((self.home / "keys" / "trusted").glob("*.pem"))

    def _trusted(self) -> dict[str, bytes]:
        pems = [public_key(key_path(self.home, self._configured))]
        with wrap_os_errors("trusted keys"):
            pems += [path.read_bytes() for path in self.trusted_files()]
        return {fingerprint(pem): pem for pem in pems}


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(draft, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename, this never replaces the key of a process that was faster
        draft.unlink()
    _write(draft, public_key(path), 0o644)  # of the file, which may be another process's key
    draft.replace(public_path(path))
    sync_directory(path.parent)


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _private(path: Path) -> ec.EllipticCurvePrivateKey:
    with wrap_os_errors(f"signing key {path}"):
        content = path.read_bytes()
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidArtifact(
            f"signing key {path}: expected an unencrypted PEM private key, found something else ({error})"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise InvalidArtifact(
            f"signing key {path}: expected an EC key on P-256, found {type(key).__name__}; make one with "
            "`openssl ecparam -name prime256v1 -genkey -noout`"
        )
    return key


def _public(pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArtifact(f"public key: expected PEM, found something else ({error})") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise InvalidArtifact(f"public key: expected an EC key on P-256, found {type(key).__name__}")
    return key


def _public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
