"""What a collection deletes, and what stays of what it deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from registry import Registry
from registry.errors import Collected
from registry.gc.report import Part
from registry.processes import ProcessId
from tests.registry.backends import only
from tests.registry.gc.collecting import NOTHING_OLD, Key, Publish, below, blobs, ids, move, sweep


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
        assert main(["artifacts", "show", gone.id]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"{gone.id}: dataset\n  made by       ")
        assert "1 file, 2.00 kB: collected: the files of dataset" in said
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
