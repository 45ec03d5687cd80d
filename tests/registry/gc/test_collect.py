from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import insert, select, update

from flows.cli import main
from registry import Artifact, Registry, Waiver, deletions, drafts
from registry.artifacts import Parentage
from registry.db import tables as schema
from registry.db.tables import content_events, leases
from registry.errors import Collected, NotFound, StoreFailed
from registry.gc import collect as gc
from registry.gc import reachability
from registry.gc.reachability import RetentionPolicy
from registry.gc.report import GcReport, Part
from registry.processes import ProcessId
from registry.store.store import Store
from tests.registry import servers
from tests.registry.backends import Backend, only
from tests.reliability.gc import lost
from tests.reliability.publish import answer, in_background, in_child, killer
from tests.seconds import seconds

Publish = Callable[..., Artifact]
Key = Callable[[str], str]
NOTHING_OLD = RetentionPolicy(days=0, history=2)


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "UNDER_WAY_SECONDS", 0.0)


def sweep(registry: Registry, keeping: RetentionPolicy = NOTHING_OLD, **options: Any) -> GcReport:
    return registry.collect(keeping, delete=True, **options)


def ids(freed: GcReport) -> list[str]:
    return [one.id for one in freed.artifacts]


def blobs(registry: Registry) -> set[str]:
    return {blob.sha256 for blob in registry.store.stored()}


def move(registry: Registry, channel: str, artifact: Artifact) -> None:
    current = registry.channels.get(channel)
    generation = current.generation if current else 0
    registry.channels.move(channel, artifact.id, generation, waiver=Waiver("test", "test"))


def below(parent: Artifact) -> dict[str, Any]:
    return {"parents": (Parentage(relation="finetune", id=parent.id),)}


def test_nothing_happens_without_delete(registry: Registry, publish: Publish) -> None:
    made = publish(registry, "one", {"a": b"alone", "b": b"shared"})
    kept = publish(registry, "two", {"b": b"shared"})
    registry.name(kept.id, "kept")
    told = registry.collect(NOTHING_OLD)
    assert (told.deleted, ids(told), told.kept) == (False, [made.id], 1)
    assert told.blobs == Part(count=1, bytes=5), "what another artifact shares is not freed"
    assert registry.verify(made.id) == registry.verify(kept.id) == []
    done = sweep(registry)
    assert done == told.model_copy(update={"deleted": True})
    assert len(blobs(registry)) == 1
    assert registry.verify(kept.id) == []


def test_records_stay_and_files_come_back(registry: Registry, publish: Publish, key: Key) -> None:
    parent = publish(registry, "parent")
    made = publish(registry, "one", {"a": b"1"}, **below(parent))
    path = registry.view(made.id)
    assert set(ids(sweep(registry))) == {parent.id, made.id}
    assert not path.exists()
    assert blobs(registry) == set()
    assert registry.get(made.id[:12]) == made
    assert [edge.parent for edge in registry.lineage(made.id)] == [parent.id]
    assert registry.find(key("one")) is None
    for use in (registry.view, registry.verify, lambda one: registry.name(one, "it")):
        with pytest.raises(Collected, match="run again the recipe that made it, whose stage prepare"):
            use(made.id)
    with pytest.raises(Collected, match=parent.id[:12]):
        publish(registry, "one", {"a": b"1"}, **below(parent))
    publish(registry, "parent")
    again = publish(registry, "one", {"a": b"1"}, **below(parent))
    assert again == made == registry.find(key("one"))
    assert registry.verify(made.id) == []
    assert (registry.view(made.id) / "a").read_bytes() == b"1"


def test_another_result_takes_the_key(registry: Registry, publish: Publish, key: Key) -> None:
    first = publish(registry, "one", {"a": b"1"})
    sweep(registry)
    second = publish(registry, "one", {"a": b"2"})
    assert second.id != first.id
    assert registry.find(key("one")) == second
    with pytest.raises(Collected):
        registry.view(first.id)
    sweep(registry)
    assert registry.find(key("one")) is None
    assert publish(registry, "one", {"a": b"1"}) == first == registry.find(key("one"))
    assert registry.verify(first.id) == []


def test_what_is_gone_is_refused_where_it_would_be_used(
    registry: Registry, publish: Publish, key: Key
) -> None:
    gone, live = publish(registry, "gone"), publish(registry, "live")
    registry.name(live.id, "live")
    sweep(registry)
    with pytest.raises(Collected):
        move(registry, "team/prod", gone)
    assert registry.channels.get("team/prod") is None
    with pytest.raises(Collected):
        registry.endpoints.add(artifact_id=gone.id, engine="e", url="u", process=ProcessId(1, 1.0), log="log")
    with pytest.raises(Collected), registry.draft(key("next"), "train", holds=[live.id, gone.id]):
        pass
    with registry.draft(key("next"), "train", holds=[live.id]):
        pass


@only("sqlite", "local")
class TestRoots:
    def test_recent_artifacts_and_what_they_came_from(
        self, registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = publish(registry, "old")
        unused = publish(registry, "unused")
        with registry.database.read() as connection:
            soon = datetime.now(UTC) + timedelta(days=13)
            assert reachability.reach(connection, RetentionPolicy(days=14), soon).keeps(unused.id)
            late = datetime.now(UTC) + timedelta(days=15)
            assert not reachability.reach(connection, RetentionPolicy(days=14), late).keeps(unused.id)
        later = (datetime.now(UTC) + timedelta(days=15)).isoformat(timespec="microseconds")
        monkeypatch.setattr("registry.catalog.now", lambda: later)
        publish(registry, "young", **below(old))
        with registry.database.read() as connection:
            found = reachability.reach(connection, RetentionPolicy(days=14), late)
        assert found.keeps(old.id)
        assert not found.keeps(unused.id)

    def test_a_result_made_again_lately_is_recent(
        self, registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = publish(registry, "first", {"a": b"same"})
        later = datetime.now(UTC) + timedelta(days=20)
        monkeypatch.setattr("registry.catalog.now", lambda: later.isoformat(timespec="microseconds"))
        assert publish(registry, "second", {"a": b"same"}) == made
        with registry.database.read() as connection:
            assert reachability.reach(connection, RetentionPolicy(days=14), later + timedelta(days=1)).keeps(
                made.id
            )

    def test_channels_their_history_and_rollbacks(self, registry: Registry, publish: Publish) -> None:
        made = [publish(registry, str(n)) for n in range(6)]
        for artifact in made:
            move(registry, "team/prod", artifact)
        reasons = registry.why_kept(made[5].id, NOTHING_OLD)
        assert reasons[0] == "channel team/prod points to it"
        assert ids(sweep(registry)) == [a.id for a in made[:3]]
        for back in (made[4], made[3]):
            assert registry.channels.rollback("team/prod", "r", "w").artifact_id == back.id
        with pytest.raises(Collected, match=made[2].id[:12]):
            registry.channels.rollback("team/prod", "r", "w")
        assert lost(registry) == []

    def test_after_rollbacks_the_next_ones_still_work(self, registry: Registry, publish: Publish) -> None:
        made = [publish(registry, str(n)) for n in range(8)]
        for artifact in made:
            move(registry, "team/prod", artifact)
        for _ in range(4):
            registry.channels.rollback("team/prod", "r", "w")
        # The last two events are rollbacks to 4 and 3; the next two would go to 2 and 1.
        assert set(ids(sweep(registry))) == {made[n].id for n in (0, 5, 6, 7)}
        for n in (2, 1):
            assert registry.channels.rollback("team/prod", "r", "w").artifact_id == made[n].id

    def test_endpoints_until_they_are_stopped(self, registry: Registry, publish: Publish) -> None:
        made = publish(registry, "one")
        row = registry.endpoints.add(
            artifact_id=made.id, engine="llama.cpp", url="u", process=ProcessId(1, 1.0), log="log"
        )
        assert ids(sweep(registry)) == []
        assert f"tuneline endpoints stop {row.id}" in registry.why_kept(made.id, NOTHING_OLD)[0]
        registry.endpoints.mark_stopped(row.id)
        assert ids(sweep(registry)) == [made.id]

    def test_what_a_stage_reads_while_its_lease_lives(
        self, registry: Registry, publish: Publish, key: Key
    ) -> None:
        made = publish(registry, "one")
        with registry.draft(key("work"), "train", holds=[made.id]):
            assert ids(sweep(registry)) == []
            assert registry.why_kept(made.id, NOTHING_OLD)[0].startswith("stage train reads it (pid ")
            with registry.database.write() as connection:
                connection.execute(update(leases), {"expires": 0.0})
            assert ids(registry.collect(NOTHING_OLD)) == [made.id]
        assert ids(sweep(registry)) == [made.id]

    def test_names_and_the_chain_of_reasons(self, registry: Registry, publish: Publish) -> None:
        base = publish(registry, "base")
        adapter = publish(registry, "adapter", **below(base))
        merged = publish(registry, "merged", **below(adapter))
        registry.name(merged.id, "support")
        assert ids(sweep(registry)) == []
        assert registry.why_kept(merged.id, NOTHING_OLD) == ["it is called support@1"]
        (why,) = registry.why_kept(base.id, NOTHING_OLD)
        assert why == (
            f"{adapter.id[:12]} was made from it (finetune), from that {merged.id[:12]} (finetune); "
            "it is called support@1"
        )

    def test_the_evidence_of_decisions_that_count(self, registry: Registry, publish: Publish) -> None:
        def measured(model: Artifact, text: str) -> Artifact:
            relation = (Parentage(relation="evaluation_of", id=model.id),)
            return publish(registry, f"evaluation {text}", kind="evaluation", parents=relation)

        base, model = publish(registry, "base"), publish(registry, "model")
        other = publish(registry, "other")
        good, of_base, named = measured(model, "model"), measured(base, "base"), measured(other, "other")
        unrelated = measured(other, "unrelated")
        registry.channels.move("team/prod", model.id, 0, waiver=Waiver("first", "w"))
        with registry.database.write() as connection:  # as if a gate had decided on this move
            _decide(connection, "team/prod", model.id, base.id, {"parent": named.id})
        assert set(ids(sweep(registry))) == {base.id, other.id, unrelated.id}
        for evaluation in (good, of_base, named):
            assert (
                "rests on it (channel team/prod, generation 1)"
                in registry.why_kept(evaluation.id, NOTHING_OLD)[0]
            )
            assert registry.verify(evaluation.id) == []

    def test_a_calibration_dataset_stays_with_its_model(
        self, registry: Registry, publish: Publish, base: Any
    ) -> None:
        from registry.artifacts import QuantSpec

        dataset = publish(registry, "dataset")
        quant = QuantSpec(method="gptq", calibration_dataset=dataset.id)
        model = publish(registry, "model", kind="quantized", base=base, quant=quant)
        registry.name(model.id, "model")
        assert ids(sweep(registry)) == []


def _decide(connection: Any, channel: str, candidate: str, baseline: str, evidence: dict[str, str]) -> None:
    """A decision and a second event of the channel that rests on it, past everything that would forbid it."""
    from registry.db.tables import channel_events, channels, gate_decisions

    row = {"id": "d" * 64, "candidate": candidate, "baseline": baseline, "policy": "{}", "verdict": "pass"}
    connection.execute(
        gate_decisions.insert(), {**row, "evidence": json.dumps(evidence), "created": "2026-01-01"}
    )
    connection.exec_driver_sql("DROP TRIGGER channel_events_no_update")
    connection.execute(update(channel_events), {"decision_id": "d" * 64})
    assert connection.execute(select(channels.c.name)).scalar_one() == channel


@only("sqlite", "local")
class TestRests:
    def test_what_crashed_publications_left(
        self, registry: Registry, backend: Backend, publish: Publish, key: Key
    ) -> None:
        kept = publish(registry, "kept", {"a": b"kept"})
        registry.name(kept.id, "kept")

        def crash(point: str) -> None:
            if point == "stored":
                raise KeyboardInterrupt

        with backend.open(failpoint=crash) as crashing, pytest.raises(KeyboardInterrupt):
            publish(crashing, "one", {"a": b"left", "b": b"kept"})
        told = registry.collect(NOTHING_OLD)
        assert (told.leftovers, told.blobs) == (Part(count=1, bytes=4), Part())
        sweep(registry)
        assert len(blobs(registry)) == 1
        assert registry.verify(kept.id) == []

    def test_young_files_of_nobody_may_be_on_their_way(
        self, registry: Registry, backend: Backend, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gc, "UNDER_WAY_SECONDS", 3600.0)
        seen = []

        def look(point: str) -> None:
            if point == "stored":
                seen.append(sweep(registry).leftovers.count)

        with backend.open(failpoint=look) as publishing:
            publish(publishing, "one")
        assert seen == [0]

    def test_stale_drafts_but_none_that_is_worked_on(
        self, registry: Registry, home: Path, key: Key, publish: Publish
    ) -> None:
        stale, fresh = (
            home / "drafts" / key("stale") / "1" / "checkpoints",
            home / "drafts" / key("fresh") / "1",
        )
        for folder in (stale, fresh):
            folder.mkdir(parents=True)
            (folder / "step").write_bytes(b"12345")
        long_ago = datetime.now().timestamp() - 20 * 86400
        for path in (stale / "step", stale, stale.parent, stale.parent.parent):
            os.utime(path, (long_ago, long_ago))
        with registry.draft(key("worked on"), "train") as draft:
            os.utime(draft.path, (long_ago, long_ago))
            os.utime(draft.path.parent, (long_ago, long_ago))
            assert registry.collect().drafts == Part(count=1, bytes=5)
            assert stale.exists()
            assert registry.collect(delete=True).drafts == Part(count=1, bytes=5)
            assert not stale.exists()
            assert (fresh / "step").exists()
            assert draft.path.is_dir()
        assert [path.name for path in (home / "drafts").iterdir()] == [key("fresh")]

    @pytest.mark.parametrize("at", gc.FAILPOINTS)
    def test_a_crash_at_any_point_loses_nothing(
        self, registry: Registry, backend: Backend, publish: Publish, at: str
    ) -> None:
        kept, gone = publish(registry, "kept"), publish(registry, "gone")
        registry.name(kept.id, "kept")

        def crash(point: str) -> None:
            if point == at:
                raise KeyboardInterrupt

        with backend.open(failpoint=crash) as crashing, pytest.raises(KeyboardInterrupt):
            crashing.collect(NOTHING_OLD, delete=True)
        assert lost(registry) == []
        sweep(registry)
        assert len(blobs(registry)) == 1
        assert publish(registry, "gone") == gone
        assert lost(registry) == []


@only("s3")
def test_the_cache_of_an_object_store(registry: Registry, home: Path, publish: Publish, key: Key) -> None:
    served, spare = publish(registry, "served", {"a": b"123"}), publish(registry, "spare", {"a": b"4567"})
    for artifact in (served, spare):
        registry.name(artifact.id, "kept")
        registry.view(artifact.id)
    assert sweep(registry).cached == Part()
    with registry.draft(key("work"), "train", holds=[served.id]):
        assert registry.collect(NOTHING_OLD, cache=True).cached == Part(count=1, bytes=4)
        assert sweep(registry, cache=True).cached == Part(count=1, bytes=4)
        assert [path.name for path in (home / "views").iterdir()] == [served.id]
    assert sweep(registry, cache=True).cached == Part(count=1, bytes=3)
    assert list(registry.store.cached()) == []
    for artifact in (served, spare):
        assert registry.verify(artifact.id) == []
        assert (registry.view(artifact.id) / "a").is_file()


def published_while_swept(registry: Registry, backend: Backend, publish: Publish) -> Artifact:
    """A publication whose files are swept between their storing and its commit."""
    swept: list[int] = []

    def sweep_once(point: str) -> None:
        if point == "stored" and not swept:
            swept.append(sweep(registry).leftovers.count)

    with backend.open(failpoint=sweep_once) as publishing:
        made = publish(publishing, "one")
    assert swept == [1]
    return made


def test_a_publication_puts_back_what_was_swept_meanwhile(
    registry: Registry, backend: Backend, publish: Publish
) -> None:
    made = published_while_swept(registry, backend, publish)
    assert registry.verify(made.id) == []


@only("sqlite", "local")
def test_without_the_check_it_would_be_lost(
    registry: Registry, backend: Backend, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "missing", lambda *_: [])
    made = published_while_swept(registry, backend, publish)
    assert [problem.kind for problem in registry.verify(made.id)] == ["missing"]
    assert lost(registry) != []


class TestDeletions:
    """Of the same content a publication comes between the batch's mark and its deletions."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(deletions, "MARK_SECONDS", 3.0)

    def restored(
        self, registry: Registry, backend: Backend, publish: Publish, first: Callable[[], Any]
    ) -> tuple[Artifact, bool]:
        """Collects an artifact, well or not. Once its deletions begin, calls `first`, has a thread make it
        again, and goes on when that is done or waits. Returns it, and whether the thread waited."""
        made, waiting = publish(registry, "one"), threading.Event()

        def again() -> None:
            with backend.open() as other:
                publish(other, "one")

        thread = threading.Thread(target=again)
        really = Store.delete

        def late(store: Store, digests: Any) -> None:
            first()
            thread.start()
            deadline = time.monotonic() + seconds(30)
            while thread.is_alive() and not waiting.is_set() and time.monotonic() < deadline:
                thread.join(0.02)
            really(store, digests)

        noticed = mock.patch.object(drafts.log, "warning", side_effect=lambda *_: waiting.set())
        with backend.open() as sweeping, mock.patch.object(Store, "delete", late), noticed:
            with suppress(StoreFailed):
                sweep(sweeping)
            thread.join()
        return made, waiting.is_set()

    def test_a_publication_waits_and_stores_anew(
        self, registry: Registry, backend: Backend, publish: Publish
    ) -> None:
        made, waited = self.restored(registry, backend, publish, lambda: None)
        assert waited
        assert registry.verify(made.id) == []

    @only("postgresql")
    def test_also_when_every_connection_breaks(
        self, registry: Registry, backend: Backend, publish: Publish, postgresql: servers.PostgreSQL
    ) -> None:
        made, waited = self.restored(registry, backend, publish, lambda: broken(postgresql, backend))
        assert registry.verify(made.id) == []
        assert waited

    @only("postgresql", "local")
    def test_a_connection_that_breaks_meanwhile_leaves_no_mark(
        self, registry: Registry, backend: Backend, publish: Publish, postgresql: servers.PostgreSQL
    ) -> None:
        publish(registry, "one")
        unmark = deletions.unmark

        def on_a_broken_connection(*arguments: Any) -> None:
            broken(postgresql, backend)
            unmark(*arguments)

        tries = iter((on_a_broken_connection, unmark))
        with mock.patch.object(deletions, "unmark", side_effect=lambda *given: next(tries)(*given)):
            sweep(registry)
        assert blobs(registry) == set()
        assert self.marks(registry) == []

    @only("sqlite", "local")
    def test_without_marks_it_would_be_lost(
        self, registry: Registry, backend: Backend, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deletions, "marked", lambda *_: set())
        made, _ = self.restored(registry, backend, publish, lambda: None)
        assert [problem.kind for problem in registry.verify(made.id)] == ["missing"]

    @only("sqlite")
    def test_kill_9_before_the_deletions(
        self, home: Path, combination: str, backend: Backend, publish: Publish
    ) -> None:
        def collect_and_die() -> None:
            with backend.open(failpoint=killer("gc deleting", 1)) as sweeping:
                sweep(sweeping)

        made = answer(lambda: self.made(backend, publish))
        assert in_child(collect_and_die) == -signal.SIGKILL
        with backend.open() as registry:
            begun = time.monotonic()
            assert self.made(backend, publish) == made
            waited = time.monotonic() - begun
            # What the dead process asked of an object store may still arrive there; on a disk nothing can.
            assert waited > 1 if combination == "sqlite-s3" else waited < seconds(1)
            assert registry.verify(made) == []
            sweep(registry)
            assert blobs(registry) == set()
            assert self.marks(registry) == []

    def made(self, backend: Backend, publish: Publish) -> str:
        with backend.open() as registry:
            return publish(registry, "one").id

    def marks(self, registry: Registry) -> list[str]:
        with registry.database.read() as connection:
            return list(connection.execute(select(schema.deletions.c.host)).scalars())

    @only("sqlite", "local")
    def test_who_dies_after_the_store_was_looked_at_was_seen_before(
        self, backend: Backend, publish: Publish
    ) -> None:
        made = self.made(backend, publish)
        marked, go = multiprocessing.Event(), multiprocessing.Event()

        def hook(point: str) -> None:
            if point == "gc deleting":
                marked.set()
                go.wait(seconds(30))

        delete = Store.delete

        def delete_and_die(store: Store, digests: Any) -> None:
            delete(store, digests)
            os.kill(os.getpid(), signal.SIGKILL)

        def collect_and_die() -> None:
            with backend.open(failpoint=hook) as sweeping, mock.patch.object(Store, "delete", delete_and_die):
                sweep(sweeping)

        child = in_background(collect_and_die)
        assert marked.wait(seconds(30))
        really, ended = Store.missing, list[int]()

        def look(store: Store, entries: Any) -> Any:
            found = really(store, entries)
            if not ended:
                assert found == []
                go.set()
                ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            return found

        with mock.patch.object(Store, "missing", look):
            assert self.made(backend, publish) == made
        assert ended == [-signal.SIGKILL]
        with backend.open() as registry:
            assert registry.verify(made) == []

    @only("sqlite", "local")
    def test_two_collections_at_once_leave_each_other_their_marks(
        self, registry: Registry, backend: Backend, publish: Publish
    ) -> None:
        def another() -> None:
            with backend.open() as other:
                assert sweep(other).blobs.count == 0

        made, waited = self.restored(registry, backend, publish, another)
        assert waited
        assert registry.verify(made.id) == []

    @only("sqlite", "local")
    def test_a_mark_of_another_machine_counts_until_it_runs_out(
        self, registry: Registry, publish: Publish
    ) -> None:
        made = publish(registry, "one")
        sweep(registry)
        (blob,) = made.manifest.files.values()
        theirs = {"host": "elsewhere", "pid": 1, "pid_started": 0.0, "expires": time.time() + seconds(1)}
        with registry.database.write() as connection:
            connection.execute(insert(schema.deletions), {"sha256": blob.sha256, **theirs})
            assert deletions.mark(connection, [blob.sha256], False)[0] == []
        begun = time.monotonic()
        assert publish(registry, "one") == made
        assert time.monotonic() - begun > 0.5
        assert registry.verify(made.id) == []
        assert self.marks(registry) == ["elsewhere"]
        sweep(registry)
        assert self.marks(registry) == []

    @only("local")
    def test_who_stood_still_for_too_long_deletes_nothing(
        self, registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(registry, "one")
        monkeypatch.setattr(deletions, "BEGIN_SECONDS", -1.0)
        with pytest.raises(StoreFailed, match="nothing that is needed was deleted"):
            sweep(registry)
        assert len(blobs(registry)) == 1
        assert self.marks(registry) == []
        monkeypatch.undo()
        monkeypatch.setattr(gc, "UNDER_WAY_SECONDS", 0.0)
        sweep(registry)
        assert blobs(registry) == set()


def broken(server: servers.PostgreSQL, backend: Backend) -> None:
    """The server hangs up on whoever uses the registry's database."""
    server.sql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{servers.name_of(backend.database_url or '')}'"
    )


class Collecting(RuleBasedStateMachine):
    """Any order of publishing, promoting, rolling back, naming and collecting, in one process."""

    made = Bundle("made")

    @initialize()
    def begin(self) -> None:
        self.folder = self.tmp_path_factory.mktemp("collecting")
        self.registry = Registry.open(self.folder)
        self.content: dict[str, set[str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.registry.close()

    @rule(
        target=made, family=st.integers(0, 4), attempt=st.integers(0, 1), parents=st.lists(made, max_size=2)
    )
    def publish(self, family: int, attempt: int, parents: list[str]) -> str:
        from tests.reliability.gc import publish

        known = [self.registry.get(parent) for parent in parents]
        gone = set(parents) & self.gone()
        try:
            artifact = publish(self.registry, family, attempt, known)
        except Collected:
            assert gone
            return parents[0]
        assert not gone
        self.content[artifact.id] = {entry.sha256 for entry in artifact.manifest.files.values()}
        return artifact.id

    @rule(one=made, channel=st.sampled_from(["a/one", "a/two"]))
    def promote(self, one: str, channel: str) -> None:
        gone = one in self.gone()
        try:
            move(self.registry, channel, self.registry.get(one))
            assert not gone
        except Collected:
            assert gone

    @rule(channel=st.sampled_from(["a/one", "a/two"]))
    def rollback(self, channel: str) -> None:
        gone = self.gone()
        with suppress(NotFound, Collected):
            assert self.registry.channels.rollback(channel, "r", "w").artifact_id not in gone

    @rule(one=made)
    def name(self, one: str) -> None:
        if one not in self.gone():
            self.registry.name(one, "name")

    @rule(history=st.integers(1, 3))
    def collect(self, history: int) -> None:
        keeping, before = RetentionPolicy(days=0, history=history), set(self.content) - self.gone()
        told = self.registry.collect(keeping)
        assert set(self.content) - self.gone() == before
        done = sweep(self.registry, keeping)
        assert done == told.model_copy(update={"deleted": True})
        after = set(self.content) - self.gone()
        assert before - after == set(ids(done))
        with self.registry.database.read() as connection:
            needed = reachability.reach(connection, keeping, datetime.now(UTC))
        assert after == {one for one in before if needed.keeps(one)}
        assert blobs(self.registry) == set().union(*(self.content[one] for one in after))

    @invariant()
    def nothing_in_use_is_lost(self) -> None:
        if hasattr(self, "registry"):
            assert lost(self.registry, history=1) == []

    def gone(self) -> set[str]:
        with self.registry.database.read() as connection:
            rows = connection.execute(select(content_events).order_by(content_events.c.sequence))
            latest = {row.artifact_id: row.action for row in rows}
        return {one for one, action in latest.items() if action == "collected"}


def test_any_order_of_steps(tmp_path_factory: pytest.TempPathFactory) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    Collecting.tmp_path_factory = tmp_path_factory
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Collecting,
        settings=settings(
            max_examples=15, stateful_step_count=20, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


@only("sqlite", "local")
class TestCommand:
    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
        code = main(["artifacts", "gc", *arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    def test_it_says_does_and_explains(
        self, registry: Registry, home: Path, publish: Publish,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setenv("TUNELINE_HOME", str(home))
        kept, gone = publish(registry, "kept"), publish(registry, "gone", {"a": b"x" * 2000})
        registry.name(kept.id, "kept")
        code, told = self.run(capsys)
        assert (code, told["deleted"], told["artifacts"], told["bytes"]) == (0, False, [], 0)
        code, told = self.run(capsys, "--keep-days", "0")
        assert (code, [one["id"] for one in told["artifacts"]], told["bytes"]) == (0, [gone.id], 2000)
        assert main(["artifacts", "gc", "--keep-days", "0"]) == 0
        said = capsys.readouterr().out
        assert "artifacts that keep their files: 1\nwould free 2.00 kB\n" in said
        assert "nothing was deleted" in said
        code, why = self.run(capsys, "--why", "kept@1", "--keep-days", "0")
        assert (code, why) == (0, {"id": kept.id, "kept": True, "reasons": ["it is called kept@1"]})
        assert self.run(capsys, "--delete", "--keep-days", "0")[1]["deleted"] is True
        assert main(["artifacts", "ls", "--json"]) == 0
        listed = {one["id"]: one for one in json.loads(capsys.readouterr().out)}
        assert (listed[gone.id]["content"], listed[gone.id]["name"]) == ("collected", None)
        assert (listed[kept.id]["content"], listed[kept.id]["name"]) == ("present", "kept@1")
        assert main(["artifacts", "ls"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.rstrip().endswith("2.00 kB, collected") for line in lines] == [False, True, False]
        assert "kept@1" in lines[2]
        assert main(["artifacts", "ls", "--limit", "1"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "these are the newest 1; --limit shows more"
        assert main(["artifacts", "ls", "--limit", "0"]) == 3
        assert "--limit 0: expected" in capsys.readouterr().err
        assert main(["artifacts", "ls", "--kind", "merged"]) == 0
        assert capsys.readouterr().out == f"no artifacts of kind merged in the registry of {home}\n"
        assert main(["artifacts", "show", gone.id, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["path"] is None
        assert shown["content"].startswith("collected: the files of dataset")
        assert main(["artifacts", "verify", gone.id]) == 3
        assert "run again the recipe" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "arguments",
        [["--keep-days", "-1"], ["--keep-days", "nan"], ["--history", "0"], ["--why", "x", "--delete"],
         ["--why", "x@1"]],
    )  # fmt: skip
    def test_what_it_refuses(
        self, registry: Registry, home: Path, publish: Publish, arguments: list[str],
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setenv("TUNELINE_HOME", str(home))
        publish(registry, "one")
        assert main(["artifacts", "gc", *arguments]) == 3
        assert capsys.readouterr().err.startswith("tuneline: ")
