import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.channels import signing
from registry.errors import InvalidArtifact
from tests.seconds import seconds


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return signing.key_path(tmp_path, None)


def test_only_what_was_signed_verifies(key: Path) -> None:
    signer, signature = signing.sign(key, b"the verdict is pass")
    public = signing.public_path(key).read_bytes()
    assert signer == signing.fingerprint(public)
    assert signing.verify(public, b"the verdict is pass", signature)
    assert not signing.verify(public, b"the verdict is fail", signature)


@pytest.mark.parametrize("signature", ["", "no base64!", "AAAA", "é"])
def test_a_signature_that_is_none_is_not_valid(key: Path, signature: str) -> None:
    assert not signing.verify(signing.public_key(key), b"content", signature)


def test_another_key_does_not_verify(key: Path, tmp_path: Path) -> None:
    other = signing.key_path(tmp_path / "elsewhere", None)
    _, signature = signing.sign(other, b"content")
    assert not signing.verify(signing.public_key(key), b"content", signature)


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: signing.key_path(tmp_path, None), range(32)))
    (path,) = paths
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing.public_path(path).read_bytes() == signing.public_key(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["signing.pem", "signing.pub.pem"]


def test_a_lost_public_half_is_written_again(key: Path, tmp_path: Path) -> None:
    signing.public_path(key).unlink()
    before = key.read_bytes()
    assert signing.key_path(tmp_path, None).read_bytes() == before
    assert signing.public_path(key).read_bytes() == signing.public_key(key)


def test_openssl_agrees(key: Path, tmp_path: Path) -> None:
    import base64

    _, signature = signing.sign(key, b"content")
    (tmp_path / "content").write_bytes(b"content")
    (tmp_path / "signature").write_bytes(base64.b64decode(signature))
    said = subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", signing.public_path(key), "-signature",
         tmp_path / "signature", tmp_path / "content"],
        capture_output=True, text=True, timeout=seconds(30),
    )  # fmt: skip
    assert (said.returncode, said.stdout.strip()) == (0, "Verified OK")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    rsa = tmp_path / "rsa.pem"
    subprocess.run(
        ["openssl", "genrsa", "-out", rsa, "2048"], check=True, capture_output=True, timeout=seconds(60)
    )
    (tmp_path / "text.pem").write_text("no key")
    for path, expected in (
        (rsa, "expected an EC key on P-256"),
        (tmp_path / "text.pem", "expected an unencr"),
    ):
        with pytest.raises(InvalidArtifact, match=expected):
            signing.sign(path, b"content")
    with pytest.raises(InvalidArtifact, match="no such file; make one with `openssl"):
        signing.key_path(tmp_path, tmp_path / "missing.pem")
    with pytest.raises(InvalidArtifact, match="expected PEM"):
        signing.verify(b"no key", b"content", "")
