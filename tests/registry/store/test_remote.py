from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry import Artifact, Registry
from registry.artifacts import FileEntry
from registry.errors import Corrupt, InvalidSetting, RegistryError, StoreFailed, StoreFull
from registry.store import remote as remote_blobs
from registry.store import s3
from registry.store import url as store_url
from registry.store.remote import RemoteBlobs
from tests.registry.backends import Backend, only
from tests.registry.proxy import Conduct, Proxy, answer, cut_after, silence
from tests.registry.servers import ObjectStore, object_store
from tests.seconds import seconds

Publish = Callable[..., Artifact]
Key = Callable[[str], str]
FILES = {"config.json": b"{}", "model/weights.bin": b"w" * 100_000, "model/empty": b""}
SMALL_PARTS = 5 * 2**20  # the smallest that S3 allows
LARGE = {"large.bin": bytes(range(256)) * 4 * 11 * 1024}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try of each request, and a short one, so that a test of errors does not wait for long."""
    monkeypatch.setattr(s3, "REQUEST_SECONDS", seconds(20))
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    monkeypatch.setattr(s3.S3, "retries", 1)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(content: bytes) -> FileEntry:
    return FileEntry(sha256=digest(content), size=len(content))


def where(url: str, content: bytes) -> dict[str, str]:
    """Bucket and key of a blob."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    name = digest(content)
    return {"Bucket": bucket, "Key": f"{prefix}/{name[:2]}/{name}"}


def files_of(view: Path) -> dict[str, bytes]:
    return {p.relative_to(view).as_posix(): p.read_bytes() for p in view.rglob("*") if p.is_file()}


@pytest.fixture
def client(s3_server: ObjectStore) -> Iterator[Any]:
    """Looks at the objects behind the registry's back."""
    made = s3_server.client()
    yield made
    made.close()


@pytest.fixture
def alone(home: Path, s3_server: ObjectStore) -> Backend:
    """A registry on SQLite and S3."""
    return Backend(home, store_url=s3_server.fresh())


@only("s3")
def test_another_machine_views_and_verifies_what_this_one_published(
    backend: Backend, tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = backend.database_url or f"sqlite:///{backend.home}/registry.db"
    other = Backend(tmp_path / "other machine", database, backend.store_url)
    with backend.open() as here, other.open() as there:
        made = publish(here, "one", FILES)
        assert there.get(made.id) == made
        assert there.verify(made.id) == []
        view = there.view(made.id)
        assert files_of(view) == FILES
        assert (view / "config.json").stat().st_nlink == 2, "a link from the cache, not a copy"
        assert publish(there, "two", {**FILES, "more": b"more"}, metrics={"n": 2}).id != made.id
        assert there.verify(made.id) == []
    # What was read once needs no network any more.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with Registry.open(other.home, database, backend.store_url) as there:
        assert there.view(made.id) == view


def test_what_is_there_is_not_sent_again(alone: Backend, tmp_path: Path, publish: Publish) -> None:
    with alone.open() as registry:
        publish(registry, "one", FILES)
    points: list[str] = []
    before = {blob.sha256: blob for blob in RemoteBlobs(alone.store_url or "").stored()}
    with Registry.open(tmp_path / "other", None, alone.store_url, failpoint=points.append) as registry:
        publish(registry, "one", {**FILES, "new": b"new"})
        after = {blob.sha256: blob for blob in registry.store.stored()}
    assert after.keys() - before.keys() == {digest(b"new")}
    assert {sha: after[sha] for sha in before} == before
    assert points.count("uploaded") == 4
    assert points.index("uploaded") > max(i for i, p in enumerate(points) if p == "directory synced")
    assert points.index("stored") > max(i for i, p in enumerate(points) if p == "uploaded")


def test_parts_are_proved_right_without_reading_them_back(
    s3_server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_blobs, "PART", SMALL_PARTS)
    monkeypatch.setattr(RemoteBlobs, "fault", lambda *_: pytest.fail("was read back"))
    blobs = RemoteBlobs(s3_server.fresh())
    for name, content in {"large": LARGE["large.bin"], "small": b"small", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        for _ in range(2):
            assert list(blobs.put({entry(content): tmp_path / name})) == [entry(content)]
    wanted = {entry(LARGE["large.bin"]): tmp_path / "back"}
    assert list(blobs.fetch(wanted)) == list(wanted)
    assert (tmp_path / "back").read_bytes() == LARGE["large.bin"]
    blobs.close()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [("alter", "altered"), ("truncate", "truncated"), ("lengthen", "altered"), ("remove", "missing")],
)
def test_damage_in_the_bucket_is_found_and_repaired(
    alone: Backend, tmp_path: Path, publish: Publish, client: Any, damage: str, expected: str
) -> None:
    url, weights = alone.store_url or "", FILES["model/weights.bin"]
    with (
        alone.open() as registry,
        Registry.open(tmp_path / "other", f"sqlite:///{alone.home}/registry.db", url) as other,
    ):
        made = publish(registry, "one", FILES)
        if damage == "remove":
            client.delete_object(**where(url, weights))
        else:
            wrong = {"alter": b"x" + weights[1:], "truncate": weights[1:], "lengthen": weights + b"x"}
            client.put_object(**where(url, weights), Body=wrong[damage])
        assert [(p.file, p.kind) for p in registry.verify(made.id)] == [("model/weights.bin", expected)]
        if damage != "lengthen":  # the first bytes are the right ones then
            with pytest.raises(
                Corrupt, match=rf"artifact {made.id[:12]}: blob {digest(weights)[:12]} .*restore"
            ):
                other.view(made.id)
            assert list((tmp_path / "other" / "views").iterdir()) == []
            assert not any((tmp_path / "other" / "cache" / "incoming").iterdir())
        assert publish(registry, "two", FILES).id == made.id
        assert registry.verify(made.id) == []
        assert files_of(other.view(made.id)) == FILES


def test_verify_reads_the_cache_too(alone: Backend, publish: Publish) -> None:
    with alone.open() as registry:
        made = publish(registry, "one", FILES)
        name = digest(b"{}")
        cached = alone.home / "cache" / name[:2] / name
        cached.chmod(0o644)
        cached.write_bytes(b"[]")
        (problem,) = registry.verify(made.id)
        assert str(problem).startswith(f"config.json: altered: cached blob {name[:12]} has sha256")
        registry.store.drop_cached([name])
        assert registry.verify(made.id) == []
        assert files_of(registry.view(made.id)) == FILES


def test_the_cache_can_go_at_any_time(alone: Backend, publish: Publish) -> None:
    with alone.open() as registry:
        made = publish(registry, "one", FILES)
        view = registry.view(made.id)
        inode = view.stat().st_ino
        cached = {blob.sha256 for blob in registry.store.cached()}
        assert cached == {digest(content) for content in FILES.values()}
        registry.store.drop_cached(cached)
        assert list(registry.store.cached()) == []
        assert registry.view(made.id).stat().st_ino == inode, "a complete view needs no download"
        registry.store.drop_view(made.id)
        assert files_of(registry.view(made.id)) == FILES


def lose(backend: Backend, times: int) -> tuple[Callable[[str], None], list[str]]:
    """A point hook that deletes a blob after it was stored, as a collection may, `times` times."""
    heard: list[str] = []

    def hear(point: str) -> None:
        heard.append(point)
        if point == "stored" and heard.count("stored") <= times:
            with backend.open() as other:
                other.store.delete([digest(b"{}")])

    return hear, heard


def test_a_blob_that_goes_before_the_commit_is_put_again(backend: Backend, publish: Publish) -> None:
    hook, heard = lose(backend, 1)
    with backend.open(failpoint=hook) as registry:
        made = publish(registry, "one", FILES)
        assert registry.verify(made.id) == []
        assert files_of(registry.view(made.id)) == FILES
    assert heard.count("stored") == 2
    assert heard.count("rows written") == 1


@only("local")
def test_a_blob_that_always_goes_is_an_error(backend: Backend, publish: Publish, key: Key) -> None:
    hook, _ = lose(backend, 100)
    with backend.open(failpoint=hook) as registry:
        with pytest.raises(StoreFailed, match=r"was stored 5 times and was gone each time"):
            publish(registry, "one", FILES)
        assert registry.find(key("one")) is None
    with backend.open() as registry:
        assert registry.verify(publish(registry, "one", FILES).id) == []


def test_blobs_are_listed_and_deleted(backend: Backend, publish: Publish) -> None:
    with backend.open() as registry:
        publish(registry, "one", FILES)
        found = {blob.sha256: blob for blob in registry.store.stored()}
        assert {sha: blob.size for sha, blob in found.items()} == {
            digest(content): len(content) for content in FILES.values()
        }
        gone = [digest(b"{}"), "ab" * 32]
        registry.store.delete(gone)
        registry.store.delete(gone)
        assert registry.store.missing([entry(c) for c in FILES.values()]) == [entry(b"{}")]
        assert len(list(registry.store.stored())) == 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket/prefix", "expected s3://BUCKET/PREFIX"),
        ("s3://", "expected s3://BUCKET/PREFIX"),
        ("s3:bucket", "expected s3://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/prefix", "it holds a secret"),
        ("s3://key@bucket/prefix", "it holds a secret"),
        ("sftp://user:secret@host/path", "it holds a secret"),
        ("s3://bucket/prefix?endpoint=x", r"expected no \? and no #"),
        ("s3://b/prefix", "'b' is not a valid bucket name"),
        ("gopher://host/path", "fsspec knows no protocol 'gopher'"),
        ("file:///does/not/exist", "of a directory that exists"),
        ("file://host/tmp", "of a directory that exists"),
    ],
)
def test_a_url_that_names_no_store_is_refused(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(InvalidSetting, match=said) as raised:
        Registry.open(tmp_path / "home", None, url)
    assert "secret@" not in str(raised.value)
    assert raised.value.exit_code == 3


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store_url, "find_spec", lambda _: None)
    with pytest.raises(InvalidSetting, match="`pip install s3fs`"):
        Registry.open(tmp_path, None, "s3://bucket/prefix")


def refused(backend: Backend, publish: Publish, kind: type[RegistryError], said: str) -> None:
    """Publishing fails with this message, which tells no secret, and nothing is visible."""
    with backend.open() as registry:
        with pytest.raises(kind, match=said) as raised:
            publish(registry, "one", FILES)
        assert registry.ls() == []
    assert not any(word in str(raised.value) for word in (*ObjectStore.secrets.values(), "wrong-secret"))
    assert "nothing was recorded" in str(raised.value)
    assert list((backend.home / "drafts").iterdir()) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("wrong secret", r"refused it \(.*\); .*check the credentials"),
        ("unknown key", r"refused it \(.*\); .*check the credentials"),
        ("read only", r"uploading blob .* refused it \(AccessDenied\)"),
        ("no credentials", "there are no credentials for s3://"),
        ("no bucket", "has no bucket 'another-bucket'; .*create it"),
        ("no server", r"http://127\.0\.0\.1:\d+ does not answer .*AWS_ENDPOINT_URL"),
    ],
)
def test_a_store_that_refuses_says_why(
    alone: Backend,
    publish: Publish,
    s3_server: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    said: str,
) -> None:
    backend = alone
    if case == "wrong secret":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    elif case == "unknown key":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    elif case == "read only":
        for name, value in s3_server.environment("reader").items():
            monkeypatch.setenv(name, value)
    elif case == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    elif case == "no bucket":
        backend = Backend(alone.home, store_url="s3://another-bucket/prefix")
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    refused(backend, publish, StoreFailed, said)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("conduct", "kind", "said"),
    [
        (
            answer("500 Internal Server Error"),
            StoreFailed,
            "answered InternalError: .*look into the store's log",
        ),
        (answer("503 Slow Down", "SlowDown"), StoreFailed, "answered SlowDown"),
        (answer("507 Insufficient Storage", "XMinioStorageFull"), StoreFull, "no room or no quota left"),
        (answer("403 Forbidden", "QuotaExceeded"), StoreFull, r"no quota left \(QuotaExceeded\)"),
        (silence, StoreFailed, "does not answer"),
        (cut_after(50), StoreFailed, "does not answer"),
    ],
)
def test_errors_of_the_store_in_our_words(
    alone: Backend,
    publish: Publish,
    s3_server: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    conduct: Conduct,
    kind: type[RegistryError],
    said: str,
) -> None:
    with Proxy(s3_server.endpoint, otherwise=conduct) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        # A HEAD has no body to say why, so the upload has to be the first request that fails.
        monkeypatch.setattr(RemoteBlobs, "_info", lambda *_: None)
        monkeypatch.setattr(s3, "REQUEST_SECONDS", 1.0 if conduct is silence else 60.0)
        refused(alone, publish, kind, said)
    monkeypatch.undo()


def test_passing_troubles_are_waited_out(
    alone: Backend, publish: Publish, s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = (answer("503 Slow Down", "SlowDown"), cut_after(100), answer("500 Internal Server Error"))
    with Proxy(s3_server.endpoint, *planned) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with alone.open() as registry:
            made = publish(registry, "one", FILES)
            assert registry.verify(made.id) == []
        assert proxy.planned == []


@pytest.mark.usefixtures("impatient")
def test_a_server_that_dies_in_the_middle_of_an_upload(
    home: Path, tmp_path: Path, publish: Publish, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server").mkdir()
    monkeypatch.setattr(remote_blobs, "PART", SMALL_PARTS)
    with object_store(tmp_path / "server") as server:
        backend = Backend(home, store_url=server.fresh())
        cut = cut_after(SMALL_PARTS + 1000, server.kill)
        with Proxy(server.endpoint, otherwise=cut) as proxy:
            for name, value in {**server.environment(), "AWS_ENDPOINT_URL": proxy.endpoint}.items():
                monkeypatch.setenv(name, value)
            with backend.open() as registry, pytest.raises(StoreFailed, match="nothing was recorded"):
                publish(registry, "one", LARGE)
        server.stop()
        server.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        with backend.open() as registry:
            assert registry.find(key("one")) is None
            assert [blob.size for blob in registry.store.stored()] == []
            made = publish(registry, "one", LARGE)
            assert registry.verify(made.id) == []


def test_several_publish_the_same_at_once(alone: Backend, publish: Publish) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with alone.open() as registry, ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda text: publish(registry, text, FILES), "abcd"))
        assert len({artifact.id for artifact in made}) == 1
        assert registry.verify(made[0].id) == []


def test_a_forked_process_connects_anew(alone: Backend, publish: Publish) -> None:
    with alone.open() as registry:
        made = publish(registry, "one", FILES)
        registry.database.close()
        if (pid := os.fork()) == 0:
            os._exit(0 if registry.verify(made.id) == [] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_any_file_system_that_fsspec_knows(tmp_path: Path) -> None:
    blobs = RemoteBlobs(f"memory://{tmp_path}")
    (tmp_path / "a").write_bytes(b"a" * 10)
    assert list(blobs.stored()) == []
    for _ in range(2):
        assert list(blobs.put({entry(b"a" * 10): tmp_path / "a"})) == [entry(b"a" * 10)]
    assert [(b.sha256, b.size) for b in blobs.stored()] == [(digest(b"a" * 10), 10)]
    assert blobs.fault(entry(b"a" * 10)) is None
    list(blobs.fetch({entry(b"a" * 10): tmp_path / "b"}))
    assert (tmp_path / "b").read_bytes() == b"a" * 10
    blobs._filesystem().pipe_file(blobs._path(digest(b"a" * 10)), b"b" * 10)
    assert blobs.fault(entry(b"a" * 10)) is not None
    list(blobs.put({entry(b"a" * 10): tmp_path / "a"}))
    assert blobs.fault(entry(b"a" * 10)) is None
    blobs.delete([digest(b"a" * 10), digest(b"b")])
    assert blobs.missing([entry(b"a" * 10)]) == [entry(b"a" * 10)]


def test_two_homes_share_a_mounted_directory(tmp_path: Path, publish: Publish) -> None:
    shared = tmp_path / "mount"
    shared.mkdir()
    database = f"sqlite:///{tmp_path}/shared.db"
    with Registry.open(tmp_path / "a", database, shared.as_uri()) as here:
        made = publish(here, "one", FILES)
    with Registry.open(tmp_path / "b", database, shared.as_uri()) as there:
        assert there.verify(made.id) == []
        assert files_of(there.view(made.id)) == FILES
        assert [blob.sha256 for blob in there.store.stored()] == sorted(map(digest, FILES.values()))
    assert not (tmp_path / "a" / "blobs").exists()
    assert list((shared / "incoming").iterdir()) == []


def test_a_store_on_another_disk(tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, link, rename = tmp_path / "mount", os.link, Path.rename
    shared.mkdir()

    def across(one: Path, other: Path) -> bool:
        return Path(one).is_relative_to(shared) != Path(other).is_relative_to(shared)

    def refuse_link(source: Path, target: Path) -> None:
        if across(source, target):
            raise OSError(errno.EXDEV, "another file system")
        link(source, target)

    def refuse_rename(source: Path, target: Path) -> Path:
        assert not across(source, target)
        return rename(source, target)

    monkeypatch.setattr(os, "link", refuse_link)
    monkeypatch.setattr(Path, "rename", refuse_rename)
    with Registry.open(tmp_path / "home", None, shared.as_uri()) as registry:
        made = publish(registry, "one", FILES)
        assert registry.verify(made.id) == []
        assert files_of(registry.view(made.id)) == FILES


def test_what_crashes_left_is_swept_after_a_day(alone: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone.open() as registry:
        left = [alone.home / "cache" / "incoming" / "half", alone.home / "views" / ".half" / "file"]
        for path in left:
            path.parent.mkdir()
            path.write_text("half")
        registry.store.sweep()
        assert all(path.exists() for path in left)
        monkeypatch.setattr("registry.store.store.LEFT_BEHIND_SECONDS", -1.0)
        registry.store.sweep()
        assert not any(path.exists() for path in left)
