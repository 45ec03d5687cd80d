from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.exchange.artifact_export import export
from flows.exchange.dossier import Dossier, gather
from flows.exchange.export_check import verify_directory
from flows.exchange.export_documents import documents
from flows.exchange.signature import sign_directory
from registry import Registry
from registry.artifacts import Manifest
from registry.channels import signing
from tests.flows.lineages import family, rewritten
from tests.reliability.exports import SMALL, flip, missed, places
from tests.seconds import seconds

WEIGHTS = random.Random(7).randbytes(100_000)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signing.key_path(tmp_path_factory.mktemp("signer"), None)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    with Registry.open(key.parent.parent) as registry:
        return export(registry, family(registry, WEIGHTS)["gguf"].id, out, key).out


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.fixture
def check(key: Path) -> Callable[[Path], tuple[str, ...]]:
    return lambda directory: verify_directory(directory, signing.public_path(key)).problems


Check = Callable[[Path], tuple[str, ...]]


def test_an_export_is_as_exported(exported: Path, key: Path, check: Check) -> None:
    assert check(exported) == ()
    found = verify_directory(exported, signing.public_path(key))
    assert found.id == json.loads((exported / "lineage.json").read_text())["artifact"]
    assert found.signer == signing.fingerprint(signing.public_key(key))


def test_it_may_be_moved_and_renamed(copy: Path, check: Check) -> None:
    moved = copy.rename(copy.with_name("another name"))
    link = copy.with_name("link")
    link.symlink_to(moved)
    assert check(moved) == check(link) == ()


def test_flipped_bytes_are_found(copy: Path, key: Path) -> None:
    assert missed(copy, signing.public_path(key), places(copy, each=25, large=200)) == []


def test_the_count_of_flips_can_fail(copy: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.reliability.exports.flip", lambda path, at: None)
    trials = places(copy, each=1, large=1)
    assert missed(copy, signing.public_path(key), trials) == trials
    assert len(trials) == len(SMALL) + 1


def append(path: Path, text: bytes = b"x") -> None:
    path.write_bytes(path.read_bytes() + text)


def append_until(path: Path, byte: bytes) -> None:
    """Until the file's digest holds this byte."""
    while byte not in hashlib.sha256(path.read_bytes()).digest():
        append(path)


def swap(folder: Path, one: str, other: str) -> None:
    (folder / one).rename(folder / "aside")
    (folder / other).rename(folder / one)
    (folder / "aside").rename(folder / other)


def linked(folder: Path, name: str, to: Path | str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(to)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "extra file": (lambda d: (d / "pytorch_model.bin").touch(), "pytorch_model.bin: extra"),
    "extra hidden file": (lambda d: (d / ".env").touch(), ".env: extra"),
    "extra git file": (lambda d: (d / ".gitattributes").touch(), ".gitattributes: extra"),
    "extra git folder": (lambda d: (d / ".git").mkdir() or (d / ".git/config").touch(), ".git/config: extra"),
    "extra file below": (lambda d: (d / "a/b").mkdir(parents=True) or (d / "a/b/c").touch(), "a/b/c: extra"),
    "empty folder": (lambda d: (d / "a/b").mkdir(parents=True), "a/b/: extra"),
    "extra link": (lambda d: (d / "x").symlink_to("model.gguf"), "x: extra"),
    "extra fifo": (lambda d: os.mkfifo(d / "x"), "x: extra"),
    "model removed": (lambda d: (d / "model.gguf").unlink(), "model.gguf: missing"),
    "model truncated": (lambda d: os.truncate(d / "model.gguf", 99), "model.gguf: truncated"),
    "model emptied": (lambda d: os.truncate(d / "model.gguf", 0), "model.gguf: truncated"),
    "model longer": (lambda d: append(d / "model.gguf"), "model.gguf: altered"),
    "model renamed": (lambda d: (d / "model.gguf").rename(d / "Model.gguf"), "Model.gguf: extra"),
    "model is a link": (
        lambda d: (d / "model.gguf").rename(d.parent / "g") and (d / "model.gguf").symlink_to("../g"),
        "model.gguf: altered",
    ),
    "model is a fifo": (
        lambda d: (d / "model.gguf").unlink() or os.mkfifo(d / "model.gguf"), "model.gguf: altered",
    ),
    "model is a folder": (
        lambda d: (d / "model.gguf").unlink() or (d / "model.gguf").mkdir(), "model.gguf: ",
    ),
    "swapped": (lambda d: swap(d, "model.gguf", "lineage.json"), "model.gguf: "),
    "documents swapped": (lambda d: swap(d, "sbom.cdx.json", "lineage.json"), "lineage.json: "),
    "card removed": (lambda d: (d / "README.md").unlink(), "README.md: missing"),
    "card changed": (
        lambda d: append(d / "README.md"),
        """model.sig: not valid: Signature mismatch: ["Hash mismatch for 'README.md'"]""",
    ),
    "card changed, its digest with a quote in it": (
        lambda d: (append(d / "README.md"), append_until(d / "README.md", b"'")),
        """model.sig: not valid: Signature mismatch: ["Hash mismatch for 'README.md'"]""",
    ),
    "card is a link": (lambda d: linked(d, "README.md", "/etc/hostname"), "README.md: "),
    "SBOM removed": (lambda d: (d / "sbom.cdx.json").unlink(), "sbom.cdx.json: missing"),
    "lineage removed": (lambda d: (d / "lineage.json").unlink(), "lineage.json: missing"),
    "lineage emptied": (lambda d: os.truncate(d / "lineage.json", 0), "lineage.json: is not valid JSON"),
    "decisions removed": (lambda d: (d / "gate-decisions.json").unlink(), "gate-decisions.json: missing"),
    "facts removed": (lambda d: (d / "tuneline-facts.json").unlink(), "tuneline-facts.json: missing"),
    "manifest removed": (lambda d: (d / "tuneline-manifest.json").unlink(), "manifest.json: missing"),
    "manifest reformatted": (lambda d: append(d / "tuneline-manifest.json", b"\n"), "canonical form"),
    "signature removed": (lambda d: (d / "model.sig").unlink(), "model.sig: missing"),
    "signature emptied": (lambda d: os.truncate(d / "model.sig", 0), "model.sig: not valid"),
    "signature is a link": (lambda d: linked(d, "model.sig", "README.md"), "model.sig: missing"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_named(copy: Path, check: Check, damage: str) -> None:
    do, said = DAMAGE[damage]
    do(copy)
    problems = check(copy)
    assert any(said in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


def test_another_key_did_not_sign_it(exported: Path, tmp_path: Path) -> None:
    other = signing.key_path(tmp_path, None)
    (problem,) = verify_directory(exported, signing.public_path(other)).problems
    assert "model.sig: not valid" in problem


def test_signed_again_by_somebody_else(copy: Path, check: Check, tmp_path: Path) -> None:
    (copy / "model.gguf").write_bytes(b"GGUF other")
    (copy / "model.sig").unlink()
    sign_directory(copy, signing.key_path(tmp_path / "other", None))
    assert any(problem.startswith("model.sig: not valid") for problem in check(copy))


def dossier_of(directory: Path) -> Dossier:
    """The dossier from which an exported directory was written."""
    lineage = json.loads((directory / "lineage.json").read_text())
    manifests = {i: Manifest.model_validate(m) for i, m in lineage["manifests"].items()}
    return Dossier(
        id=lineage["artifact"],
        manifest=manifests[lineage["artifact"]],
        manifests=manifests,
        evaluations=tuple(lineage["evaluations"]),
        decisions=tuple(json.loads((directory / "gate-decisions.json").read_text())),
        published=lineage["published"],
    )


def forge(directory: Path, weights: bytes) -> None:
    """Other weights, and every document made again to match them: what a careful forger would do."""
    known = dossier_of(directory)
    (directory / "model.gguf").write_bytes(weights)
    entry = {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)}
    manifest = rewritten(known.manifest, files={"model.gguf": entry})
    kept = {i: m for i, m in known.manifests.items() if i not in {known.id, *known.evaluations}}
    fake = Dossier(manifest.id, manifest, {**kept, manifest.id: manifest}, (), (), known.published)
    for name, content in documents(fake).items():
        (directory / name).write_bytes(content)


def test_a_careful_forgery_is_found_by_the_signature_alone(copy: Path, key: Path, check: Check) -> None:
    forge(copy, b"GGUF other weights")
    assert verify_directory(copy, None).problems == (), "this is why the public key is needed"
    (problem,) = check(copy)
    assert problem.startswith("model.sig: not valid")
    (copy / "model.sig").unlink()
    assert check(copy) == ("model.sig: missing: nothing shows who made this directory",)
    assert verify_directory(copy, None).problems != ()


def changed(directory: Path, name: str, change: Callable[[Any], Any]) -> None:
    value = json.loads((directory / name).read_text())
    change(value)
    (directory / name).write_text(json.dumps(value))


def first_file(sbom: Any) -> Any:
    return sbom["metadata"]["component"]["components"][0]


INCONSISTENT: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "an ancestor's manifest edited": (
        "lineage.json",
        lambda v: next(m for m in v["manifests"].values() if m["kind"] == "base").update(stage="other"),
        "has the digest",
    ),
    "an ancestor left out": (
        "lineage.json",
        lambda v: v["manifests"].pop(next(i for i, m in v["manifests"].items() if m["kind"] == "dataset")),
        "is missing",
    ),
    "an unknown evaluation": ("lineage.json", lambda v: v["evaluations"].append("0" * 64), "is missing"),
    "an evaluation of something else": (
        "lineage.json",
        lambda v: v["evaluations"].append(next(i for i, m in v["manifests"].items() if m["kind"] == "base")),
        "did not measure this artifact",
    ),
    "an evaluation hidden": ("lineage.json", lambda v: v["evaluations"].clear(), "is not an ancestor"),
    "a format to come": ("lineage.json", lambda v: v.update(format=2), "use a newer one"),
    "another artifact's lineage": ("lineage.json", lambda v: v.update(artifact="0" * 64), "is that of"),
    "a lineage that is none": ("lineage.json", lambda v: v.clear(), "cannot be read as a lineage"),
    "a verdict turned": ("gate-decisions.json", lambda v: v[0].update(verdict="fail"), "not what its id"),
    "another candidate": ("gate-decisions.json", lambda v: v[0].update(candidate="0"), "another artifact"),
    "decisions that are none": ("gate-decisions.json", lambda v: v[0].clear(), "cannot be read as"),
    "a decision of tomorrow": ("gate-decisions.json", lambda v: v[0].update(mood=1), "cannot be read as"),
    "facts edited": ("tuneline-facts.json", lambda v: v.update(kind="merged"), "differs from the manifest"),
    "a hash in the SBOM": (
        "sbom.cdx.json", lambda v: first_file(v)["hashes"][0].update(content="0" * 64), "artifacts differs",
    ),
    "a score in the SBOM": (
        "sbom.cdx.json",
        lambda v: v["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]
        .update(value="0.99"),
        "scores differs",
    ),
    "a parent in the SBOM": ("sbom.cdx.json", lambda v: v["dependencies"][0].update(dependsOn=[]), "parents"),
    "an SBOM against the schema": ("sbom.cdx.json", lambda v: v.update(version=0), "violates CycloneDX"),
    "an SBOM that is none": ("sbom.cdx.json", lambda v: v.clear(), "cannot be read as"),
}  # fmt: skip


@pytest.mark.parametrize("change", INCONSISTENT)
def test_documents_that_disagree_are_found_without_a_key(copy: Path, change: str) -> None:
    name, do, said = INCONSISTENT[change]
    changed(copy, name, do)
    problems = verify_directory(copy, None).problems
    assert any(said in problem and name in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value: 0.625", "value: 0.999", "model-index differs"),
        ("revision: " + "a" * 40, "revision: " + "c" * 40, "tuneline differs"),
        ("base_model: acme/Tiny-1B", "base_model: acme/Other-1B", "base_model differs"),
        ("type: Q8_0", "type: Q4_0", "quantization differs"),
        ("---\n", "", "README.md: "),
    ],
)
def test_a_card_that_says_something_else_is_found_without_a_key(
    copy: Path, old: str, new: str, said: str
) -> None:
    text = (copy / "README.md").read_text()
    assert old in text
    (copy / "README.md").write_text(text.replace(old, new, 1))
    problems = verify_directory(copy, None).problems
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lineage.json", b"[" * 100_000),
        ("lineage.json", b'{"format": 1' + b"0" * 5000 + b"}"),
        ("gate-decisions.json", b"\xff\xfe"),
        ("gate-decisions.json", b"null"),
        ("tuneline-manifest.json", b"[" * 100_000),
        ("tuneline-manifest.json", b"\x00"),
        ("sbom.cdx.json", b'{"metadata": []}'),
        ("model.sig", b"{}"),
        ("model.sig", b"[" * 100_000),
        ("README.md", b"---\na: &a [1]\nb: [*a, *a]\n---\n"),
        ("README.md", b"\xff"),
    ],
)
def test_hostile_documents_are_problems_and_no_crash(
    copy: Path, check: Check, name: str, content: bytes
) -> None:
    (copy / name).write_bytes(content)
    assert any(problem.startswith(f"{name}: ") for problem in check(copy))


def test_an_odd_file_name_stays_on_its_line(copy: Path, check: Check) -> None:
    (copy / "x\nmodel.gguf: fine\x1b[2J").touch()
    Path(os.fsdecode(os.fsencode(copy) + b"/\xff")).touch()
    problems = check(copy)
    assert len([p for p in problems if ": extra" in p]) == 2
    assert all("\n" not in p and "\x1b" not in p and p.isprintable() for p in problems)


def tuneline(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as on a machine where Tuneline never ran."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNELINE_")}
    command = Path(sys.executable).with_name("tuneline")
    return subprocess.run(
        [command, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds(60),
    )


def test_a_machine_without_a_registry(copy: Path, key: Path) -> None:
    public = str(signing.public_path(key))
    done = tuneline(copy.parent, "artifacts", "verify", "copy", "--public-key", public)
    assert (done.returncode, done.stderr) == (0, "")
    assert "every file as exported and signed by key" in done.stdout
    done = tuneline(copy.parent, "artifacts", "verify", "copy")
    assert done.returncode == 0
    assert "Not proved: the signature was not checked" in done.stdout
    flip(copy / "model.gguf", 5)
    done = tuneline(copy.parent, "artifacts", "verify", "copy", "--public-key", public)
    assert done.returncode == 4
    first, second, last = done.stdout.splitlines()
    assert first.startswith("model.gguf: altered")
    assert second.startswith("model.sig: not valid")
    assert last.endswith("NOT as exported")
    assert [p.name for p in copy.parent.iterdir()] == ["copy"], "verifying must make nothing"


def test_a_decision_signed_by_another_registry(tmp_path: Path, key: Path) -> None:
    with Registry.open(tmp_path / "home") as registry:
        made = family(registry)
        out = export(registry, made["gguf"].id, tmp_path / "out", key).out
    found = verify_directory(out, signing.public_path(key))
    assert found.problems == ()
    (sentence,) = found.not_proved
    assert "is signed by key" in sentence
    assert "which was not given" in sentence


def test_a_decision_with_a_forged_signature(tmp_path: Path) -> None:
    own = signing.key_path(tmp_path / "home", None)
    with Registry.open(tmp_path / "home") as registry:
        made = family(registry)
        out = export(registry, made["gguf"].id, tmp_path / "out", own).out
    assert verify_directory(out, signing.public_path(own)).not_proved == ()
    changed(out, "gate-decisions.json", lambda v: v[0].update(signature="AAAA"))
    sign_directory_again(out, own)
    (problem,) = verify_directory(out, signing.public_path(own)).problems
    assert "was not signed by key" in problem


def sign_directory_again(directory: Path, key: Path) -> None:
    (directory / "model.sig").unlink()
    sign_directory(directory, key)


def test_the_library_s_own_command_agrees(copy: Path, key: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("model_signing")), "verify", "key", str(copy),
        "--signature", str(copy / "model.sig"), "--public_key", str(signing.public_path(key)),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(60))
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr
    flip(copy / "model.gguf", 5)
    assert subprocess.run(command, capture_output=True, text=True, timeout=seconds(60)).returncode != 0


def test_what_the_library_s_own_command_signed_is_accepted(copy: Path, key: Path, check: Check) -> None:
    (copy / "model.sig").unlink()
    done = subprocess.run(
        [Path(sys.executable).with_name("model_signing"), "sign", "key", copy,
         "--signature", copy / "model.sig", "--private_key", key],
        capture_output=True, text=True, timeout=seconds(60),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert check(copy) == ()


def test_a_signature_that_leaves_something_out(copy: Path, key: Path, check: Check) -> None:
    from model_signing import hashing
    from model_signing import signing as library

    (copy / "model.sig").unlink()
    hashed = hashing.Config().set_ignored_paths(paths=["model.sig", "lineage.json"])
    library.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(hashed).sign(
        copy, copy / "model.sig"
    )
    assert check(copy) == ("model.sig: does not cover lineage.json",)


def test_the_dossier_of_an_export_is_that_of_the_registry(tmp_path: Path, key: Path) -> None:
    with Registry.open(tmp_path / "home") as registry:
        made = family(registry)
        out = export(registry, made["gptq"].id, tmp_path / "out", key).out
        assert dossier_of(out) == gather(registry, made["gptq"].id)[1]
