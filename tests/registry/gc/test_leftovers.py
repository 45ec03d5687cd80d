"""What crashes and caches left behind, which a collection takes along."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from registry import Registry
from registry.gc import collect as gc
from registry.gc.report import Part
from tests.registry.backends import Backend, only
from tests.registry.gc.collecting import NOTHING_OLD, Key, Publish, blobs, sweep
from tests.reliability.gc import lost


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
