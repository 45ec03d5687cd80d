from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cli import main
from flows.errors import Usage
from flows.exchange import artifact_export
from flows.exchange.artifact_export import export
from flows.exchange.dossier import place
from flows.exchange.export_check import verify_directory
from registry import Artifact, Registry
from registry.channels import signing
from registry.errors import Corrupt, InvalidArtifact, NotFound, StoreFull
from tests.flows.lineages import MODELS, family, publish

BESIDE = {
    "gate-decisions.json", "lineage.json", "model.sig", "sbom.cdx.json", "tuneline-facts.json",
    "tuneline-manifest.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exporting")


@pytest.fixture(scope="module")
def registry(home: Path) -> Iterator[Registry]:
    with Registry.open(home) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(registry: Registry) -> dict[str, Artifact]:
    return family(registry)


@pytest.fixture(scope="module")
def key(home: Path) -> Path:
    return signing.key_path(home, None)


def names(directory: Path) -> set[str]:
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", [*MODELS, "dataset", "merged evaluation"])
def test_every_kind_is_exported_whole(
    registry: Registry, made: dict[str, Artifact], key: Path, tmp_path: Path, name: str
) -> None:
    done = export(registry, made[name].id[:12], tmp_path / "out", key)
    found = names(tmp_path / "out")
    card = {"README.md"} if name in MODELS else set()
    own = {place(file, name in MODELS) for file in made[name].manifest.files}
    assert found == own | BESIDE | card == set(done.files)
    digest = hashlib.sha256((done.out / "tuneline-manifest.json").read_bytes()).hexdigest()
    assert digest == made[name].id == done.id
    known, manifest = json.loads((done.out / "tuneline-facts.json").read_text()), made[name].manifest
    assert known.keys() == {"kind", "relations", "base", "quant", "metrics"}
    assert (known["kind"], known["base"]) == (manifest.kind, manifest.base and manifest.base.model_dump())
    assert verify_directory(done.out, signing.public_path(key)).problems == ()
    assert list(tmp_path.iterdir()) == [done.out]


def test_lineage_holds_every_manifest_under_its_digest(
    registry: Registry, made: dict[str, Artifact], key: Path, tmp_path: Path
) -> None:
    out = export(registry, made["gguf"].id, tmp_path / "out", key).out
    lineage = json.loads((out / "lineage.json").read_text())
    expected = {made[n].id for n in ("gguf", "merged", "adapter", "base", "dataset", "gguf evaluation")}
    assert lineage["manifests"].keys() == expected
    for known_as, manifest in lineage["manifests"].items():
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == known_as
    (decision,) = json.loads((out / "gate-decisions.json").read_text())
    assert (decision["verdict"], decision["baseline"]) == ("pass", made["base"].id)


def test_a_file_whose_name_the_export_needs_moves_aside(
    registry: Registry, made: dict[str, Artifact], key: Path, tmp_path: Path
) -> None:
    out = export(registry, made["adapter"].id, tmp_path / "adapter", key).out
    assert (out / "original/README.md").read_bytes() == b"PEFT's own card\n"
    assert (out / "README.md").read_text().startswith("---\n")
    odd = {name: name.encode() for name in ("readme.MD", "Model.sig", "original/a", "lineage.json/b", "x")}
    artifact = publish(
        registry, "merged", "merge", odd, base=made["base"].manifest.base, quant=made["base"].manifest.quant
    )
    moved = export(registry, artifact.id, tmp_path / "odd", key).out
    for name in odd:
        assert (moved / (name if name == "x" else f"original/{name}")).read_bytes() == name.encode()
    assert verify_directory(moved, signing.public_path(key)).problems == ()


def test_a_dataset_keeps_its_own_card(
    registry: Registry, made: dict[str, Artifact], key: Path, tmp_path: Path
) -> None:
    out = export(registry, made["dataset"].id, tmp_path / "out", key).out
    assert (out / "README.md").read_text() == "# Data\n"


def test_two_exports_differ_in_their_signature_only(
    registry: Registry, made: dict[str, Artifact], key: Path, tmp_path: Path
) -> None:
    first, second = (export(registry, made["gptq"].id, tmp_path / n / "x", key).out for n in "ab")
    differing = {n for n in names(first) if (first / n).read_bytes() != (second / n).read_bytes()}
    assert differing == {"model.sig"}


@pytest.mark.parametrize("there", ["file", "directory", "empty", "dangling link"])
def test_nothing_is_overwritten(
    registry: Registry, made: dict[str, Artifact], key: Path, tmp_path: Path, there: str
) -> None:
    out = tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    elif there == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
    if there == "directory":
        (out / "mine").touch()
    with pytest.raises(Usage, match="exists already"):
        export(registry, made["gguf"].id, out, key)
    assert list(tmp_path.iterdir()) == [out]
    assert not (tmp_path / "nowhere").exists()


def test_nothing_is_left_of_an_export_that_fails(
    registry: Registry, made: dict[str, Artifact], key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact_export, "sign_directory", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(registry, made["gguf"].id, tmp_path / "out", key)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StoreFull, match="no space left"):
        export(registry, made["gguf"].id, tmp_path / "out", key)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(StoreFull, match="0 B are free"):
        export(registry, made["gguf"].id, tmp_path / "out", key)
    assert list(tmp_path.iterdir()) == []


def test_somebody_else_may_be_faster(
    registry: Registry, made: dict[str, Artifact], key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(draft: Path) -> tuple[str, ...]:
        (tmp_path / "out").mkdir()
        return ()

    monkeypatch.setattr(artifact_export, "_synced", slow)
    with pytest.raises(Usage, match="meanwhile"):
        export(registry, made["gguf"].id, tmp_path / "out", key)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_damaged_content_is_not_exported(tmp_path: Path, key: Path, damage: str) -> None:
    with Registry.open(tmp_path / "home") as registry:
        made = family(registry)
        sha256 = made["gguf"].manifest.files["model.gguf"].sha256
        (blob,) = (tmp_path / "home/blobs").rglob(sha256)
        blob.chmod(0o644)
        if damage == "missing":
            blob.unlink()
        else:
            blob.write_bytes(b"X" * blob.stat().st_size)
        with pytest.raises(Corrupt, match=r"model\.gguf"):
            export(registry, made["gguf"].id, tmp_path / "out", key)
    assert not (tmp_path / "out").exists()


def test_bad_keys_and_references_are_named(
    registry: Registry, made: dict[str, Artifact], tmp_path: Path, key: Path
) -> None:
    wrong = tmp_path / "key.pem"
    wrong.write_text("not a key")
    with pytest.raises(InvalidArtifact, match="expected an unencrypted PEM private key"):
        export(registry, made["gguf"].id, tmp_path / "out", wrong)
    with pytest.raises(NotFound):
        export(registry, "nothing@3", tmp_path / "out", key)
    assert not (tmp_path / "out").exists()


def test_from_a_store_elsewhere(tmp_path: Path, key: Path) -> None:
    (tmp_path / "mount").mkdir()
    with Registry.open(tmp_path / "home", None, (tmp_path / "mount").as_uri()) as registry:
        made = family(registry)
        out = export(registry, made["merged"].id, tmp_path / "out", key).out
    assert not any(p.is_file() for p in (tmp_path / "home/blobs").rglob("*"))
    assert verify_directory(out, signing.public_path(key)).problems == ()


def test_the_commands(
    home: Path, made: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TUNELINE_HOME", str(home))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, Any]:
        code = main(["artifacts", *arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, said = run("export", made["gguf"].id[:10], "model")
    assert (code, said["id"], said["out"]) == (0, made["gguf"].id, str(tmp_path / "model"))
    public = str(home / "keys/signing.pub.pem")
    code, checked = run("verify", "model", "--public-key", public)
    assert (code, checked["problems"], checked["signed_by"]) == (0, [], said["signer"])
    assert checked["not_proved"] == []
    assert run("export", made["gguf"].id[:10], "model")[0] == 3
    code, unsigned = run("verify", "model")
    assert (code, unsigned["signed_by"]) == (0, None)
    assert "nothing here shows who made them" in unsigned["not_proved"][0]
    (tmp_path / "model/model.gguf").write_bytes(b"other")
    code, broken = run("verify", "model", "--public-key", public)
    assert (code, len(broken["problems"])) == (4, 2)
    assert run("verify", made["gguf"].id[:10]) == (0, {"id": made["gguf"].id, "problems": []})
    assert run("verify", made["gguf"].id[:10], "--public-key", public)[0] == 3
    assert run("verify", "model", "--public-key", str(tmp_path / "no.pem"))[0] == 3


def test_a_key_from_the_environment_or_the_command_line(
    home: Path, made: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TUNELINE_HOME", str(home))
    keys = [signing.key_path(tmp_path / name, None) for name in "ab"]
    signers = [signing.fingerprint(signing.public_key(one)) for one in keys]
    monkeypatch.setenv("TUNELINE_SIGNING_KEY", str(keys[0]))
    for name, extra, signer in (("x", (), signers[0]), ("y", ("--key", str(keys[1])), signers[1])):
        assert main(["artifacts", "export", made["base"].id, str(tmp_path / name), "--json", *extra]) == 0
        assert json.loads(capsys.readouterr().out)["signer"] == signer
