from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import Artifact, Registry
from registry.errors import Corrupt, InvalidArtifact
from registry.store.files import scan
from tests.registry.backends import only

Publish = Callable[..., Artifact]
FILES = {"config.json": b"{}", "model/weights.bin": b"w" * 100_000, "model/empty": b""}


def blob(home: Path, content: bytes) -> Path:
    name = hashlib.sha256(content).hexdigest()
    return home / "blobs" / name[:2] / name


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


@only("local")
def test_files_are_stored_once_and_read_only(registry: Registry, home: Path, publish: Publish) -> None:
    one = publish(registry, "one", FILES)
    two = publish(registry, "two", {**FILES, "extra.txt": b"more"}, metrics={"n": 2})
    assert one.id != two.id
    stored = [path for path in (home / "blobs").rglob("*") if path.is_file()]
    assert len(stored) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in stored} == {0o444}
    assert one.size == sum(map(len, FILES.values()))
    assert list((home / "drafts").iterdir()) == []


@only("local")
def test_a_view_costs_links_not_copies(registry: Registry, home: Path, publish: Publish) -> None:
    view = registry.view(publish(registry, "one", FILES).id)
    assert {p.relative_to(view).as_posix(): p.read_bytes() for p in view.rglob("*") if p.is_file()} == FILES
    assert (view / "model/weights.bin").samefile(blob(home, FILES["model/weights.bin"]))
    assert {stat.S_IMODE(p.stat().st_mode) for p in (view, view / "model")} == {0o555}


@pytest.mark.parametrize("damage", ["remove", "truncate", "add", "link", "empty", "replace by a file"])
def test_an_incomplete_view_is_made_again(registry: Registry, publish: Publish, damage: str) -> None:
    artifact = publish(registry, "one", FILES)
    view = registry.view(artifact.id)
    for folder in (view, view / "model"):
        folder.chmod(0o755)
    target = view / "config.json"
    if damage == "add":
        (view / "model" / "new").write_text("x")
    elif damage in {"empty", "replace by a file"}:
        shutil.rmtree(view)
        view.mkdir() if damage == "empty" else view.write_text("x")
    else:
        target.unlink()
        if damage == "truncate":
            target.write_bytes(b"{")
        elif damage == "link":
            target.symlink_to("/etc/hostname")
    again = registry.view(artifact.id)
    assert {p.relative_to(again).as_posix(): p.read_bytes() for p in again.rglob("*") if p.is_file()} == FILES
    assert [p.name for p in view.parent.iterdir()] == [artifact.id], "no rests of earlier views"


def test_a_complete_view_is_left_alone(registry: Registry, publish: Publish) -> None:
    artifact = publish(registry, "one", FILES)
    inode = registry.view(artifact.id).stat().st_ino
    assert registry.view(artifact.id).stat().st_ino == inode


@only("local")
def test_where_links_fail_a_view_is_copied_once(
    registry: Registry, home: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMLINK, "too many links")

    monkeypatch.setattr(os, "link", refuse)
    artifact = publish(registry, "one", FILES)
    assert registry.verify(artifact.id) == []
    view = registry.view(artifact.id)
    copy = view / "model/weights.bin"
    assert copy.read_bytes() == FILES["model/weights.bin"]
    assert not copy.samefile(blob(home, FILES["model/weights.bin"]))
    assert registry.view(artifact.id).stat().st_ino == view.stat().st_ino
    assert copy.stat().st_ino == (registry.view(artifact.id) / "model/weights.bin").stat().st_ino
    assert registry.verify(artifact.id) == []


@only("local")
def test_a_view_of_a_lost_blob_names_the_file(registry: Registry, home: Path, publish: Publish) -> None:
    artifact = publish(registry, "one", FILES)
    blob(home, b"{}").unlink()
    with pytest.raises(Corrupt, match=r"file config\.json of artifact .* should have 2 bytes and is missing"):
        registry.view(artifact.id)
    assert list((home / "views").iterdir()) == []


@only("local")
def test_publishing_again_repairs_damaged_blobs_and_their_views(
    registry: Registry, home: Path, publish: Publish
) -> None:
    artifact = publish(registry, "one", FILES)
    view = registry.view(artifact.id)
    damaged = blob(home, FILES["model/weights.bin"])
    overwrite(damaged, b"x" * 100_000)
    blob(home, b"{}").unlink()
    assert len(registry.verify(artifact.id)) == 2
    assert publish(registry, "two", FILES).id == artifact.id
    assert registry.view(artifact.id) == view
    assert (view / "model/weights.bin").read_bytes() == FILES["model/weights.bin"]
    assert registry.verify(artifact.id) == []


@only("local")
def test_verify_finds_every_changed_byte(registry: Registry, home: Path, publish: Publish) -> None:
    content = b"every byte of this counts"
    artifact = publish(registry, "one", {"small.txt": content})
    path = blob(home, content)
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 8)
        overwrite(path, bytes(changed))
        problems = registry.verify(artifact.id)
        assert [(p.file, p.kind) for p in problems] == [("small.txt", "altered")]
    overwrite(path, content)
    assert registry.verify(artifact.id) == []


@only("local")
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("truncate", "truncated"), ("lengthen", "altered"), ("remove", "missing"), ("symlink", "altered"),
        ("directory", "altered"), ("fifo", "altered"), ("swap", "altered"),
    ],
)  # fmt: skip
def test_verify_finds_damage_in_the_store(
    registry: Registry, home: Path, publish: Publish, tmp_path: Path, damage: str, expected: str
) -> None:
    artifact = publish(registry, "one", {"a": b"first", "b": b"other"})
    path, other = blob(home, b"first"), blob(home, b"other")
    if damage in {"truncate", "lengthen"}:
        overwrite(path, b"firs" if damage == "truncate" else b"first!")
    elif damage == "swap":
        overwrite(path, b"other")
        overwrite(other, b"first")
    else:
        path.unlink()
    if damage == "symlink":
        (tmp_path / "same").write_bytes(b"first")
        path.symlink_to(tmp_path / "same")
    elif damage == "directory":
        path.mkdir()
    elif damage == "fifo":
        os.mkfifo(path)
    problems = registry.verify(artifact.id)
    assert ("a", expected) in {(p.file, p.kind) for p in problems}
    assert len(problems) == (2 if damage == "swap" else 1)
    assert str(problems[0]).startswith(f"a: {expected}: blob ")


@pytest.mark.parametrize(
    ("damage", "file", "expected"),
    [
        ("add", "c", "extra"), ("remove", "a", "missing"), ("change", "a", "altered"),
        ("truncate", "a", "truncated"), ("rename", "c", "extra"), ("symlink", "a", "altered"),
    ],
)  # fmt: skip
def test_verify_finds_damage_in_the_view(
    registry: Registry, publish: Publish, damage: str, file: str, expected: str
) -> None:
    artifact = publish(registry, "one", {"a": b"first", "b": b"other"})
    view = registry.view(artifact.id)
    view.chmod(0o755)
    if damage == "rename":
        (view / "a").rename(view / "c")
    elif damage != "add":
        (view / "a").unlink()
    if damage == "add":
        (view / "c").write_bytes(b"new")
    elif damage in {"change", "truncate"}:
        (view / "a").write_bytes(b"f1rst" if damage == "change" else b"fir")
    elif damage == "symlink":
        (view / "a").symlink_to(view / "b")
    assert (file, expected) in {(p.file, p.kind) for p in registry.verify(artifact.id)}


def test_a_draft_holds_regular_files_only(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("x")
    (tmp_path / "dir").mkdir()
    odd = tmp_path / "dir" / "odd"
    odd.symlink_to(tmp_path / "good")
    with pytest.raises(InvalidArtifact, match="dir/odd is a symbolic link"):
        scan(tmp_path, "checkpoints")
    odd.unlink()
    odd.symlink_to(tmp_path)
    with pytest.raises(InvalidArtifact, match="dir/odd is a symbolic link"):
        scan(tmp_path, "checkpoints")
    odd.unlink()
    os.mkfifo(odd)
    with pytest.raises(InvalidArtifact, match="dir/odd is a FIFO"):
        scan(tmp_path, "checkpoints")
    odd.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(odd.parent)
        try:
            listener.bind("odd")
        finally:
            os.chdir(here)
        with pytest.raises(InvalidArtifact, match="dir/odd is a socket"):
            scan(tmp_path, "checkpoints")


@pytest.mark.parametrize("name", [b"new\nline", b"not-utf8-\xff", "shy\u00adphen".encode()])
def test_a_draft_has_plain_names_only(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("x")
    with pytest.raises(InvalidArtifact, match="invisible or undecodable"):
        scan(tmp_path, "checkpoints")


def test_names_that_collide_elsewhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "Config.json").write_text("x")
    (tmp_path / "config.json").write_text("y")
    with pytest.raises(InvalidArtifact, match=r"'Config\.json' and 'config\.json' collide"):
        scan(tmp_path, "checkpoints")


def test_an_empty_draft_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "x").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArtifact, match="holds no file"):
        scan(tmp_path, "checkpoints")


def test_a_file_that_changes_after_it_was_read_is_refused(
    home: Path, publish: Publish, key: Callable[[str], str]
) -> None:
    def write_late(point: str) -> None:
        if point == "scanned":
            (draft,) = (home / "drafts" / key("one")).iterdir()
            with (draft / "text.txt").open("a") as stream:
                stream.write("more")

    with Registry.open(home, failpoint=write_late) as registry:
        with pytest.raises(InvalidArtifact, match="changed while it was read"):
            publish(registry, "one")
        assert registry.find(key("one")) is None


def test_a_file_with_another_name_elsewhere_is_copied(
    registry: Registry,
    home: Path,
    tmp_path: Path,
    key: Callable[[str], str],
    facts: Callable[..., dict[str, object]],
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("shared")
    with registry.draft(key("x"), "prepare") as draft:
        os.link(outside, draft.path / "linked")
        artifact = draft.commit(*facts())
    outside.write_text("changed later")
    assert registry.verify(artifact.id) == []


def test_a_device_is_refused(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "odd", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(InvalidArtifact, match="odd is a device"):
        scan(tmp_path, "checkpoints")


@only("sqlite", "local")
def test_ten_thousand_files(registry: Registry, publish: Publish) -> None:
    files = {f"part-{number % 100:02}/{number}.txt": str(number % 50).encode() for number in range(10_000)}
    made = publish(registry, "one", files)
    assert registry.verify(made.id) == []
    view = registry.view(made.id)
    assert sum(path.is_file() for path in view.rglob("*")) == 10_000
    assert len(list(registry.store.stored())) == 50
